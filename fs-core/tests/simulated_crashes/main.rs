//! wip
mod campaign;
mod differential;
mod facts;
mod walk;
mod workload;
