//! The fuzz targets run the checks of `fs-core/tests/log_format`: there proptest feeds
//! them, here a fuzzer does.

#[path = "../../fs-core/tests/log_format/checks.rs"]
pub mod checks;
#[path = "../../fs-core/tests/log_format/model.rs"]
pub mod model;
#[path = "../../fs-core/tests/log_format/store.rs"]
pub mod store;
