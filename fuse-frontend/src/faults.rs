//! A mount that fails on purpose (`-o faults`): every operation is recorded, rules make
//! operations fail, and at any moment the power can.
//!
//! What a power failure would leave follows from the recording and a persistence model, as in
//! the crash lab; no disk is needed for it. While such a mount lives the backing directory is
//! what programs see. A power failure ends the mount, and leaves the backing directory as a disk
//! would be after it.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use commands::protocol::{FaultRequest, Request, Response};
use commands::report::{DurabilityReport, STATUS_SCHEMA};
use fs_core::crash::draw::draw;
use fs_core::crash::law::{Law, Subject};
use fs_core::crash::state::Blocks;
use fs_core::engine::{Engine, EngineConfig, Tree};
use fs_core::faults::known_model;
use fs_core::log::HOME_NAME;
use fs_core::platform::linux::{LinuxBacking, raise_open_files_limit};
use fs_core::platform::record::{CrashPoint, Live, RecordPlan, Recorder};

use crate::control::{Answers, ControlServer, StatusReport, unanswerable};
use crate::crash::layout;
use crate::crash::record::ProcWitness;
use crate::failure::Failure;
use crate::mount::kernel::KernelMount;
use crate::mount::{self, Event, MountPlan, preflight};
use crate::skin::reply::Channel;
use crate::skin::{Counters, Skin, SkinOptions};

/// The model of a power failure that names none.
const MODEL_DEFAULT: &str = "ext4";
/// How long a shutdown waits for sync requests that are under way.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// Why it cannot go on in another program.
const NO_RESTART: &str = "what is recorded is in this one's memory";

type RecordedTree = Arc<Tree<Recorder<LinuxBacking>>>;

/// A mount that fails on purpose.
pub struct FaultMount {
    plan: MountPlan,
    lab: Arc<Lab>,
    control: ControlServer,
    events: Receiver<Event>,
}

/// What answers clients.
struct Lab {
    plan: MountPlan,
    tree: RecordedTree,
    counters: Arc<Counters>,
    skin: Arc<Skin<Recorder<LinuxBacking>>>,
    filesystem: &'static str,
    open_files_max: u64,
    started: Instant,
    power: Arc<Power>,
}

/// The mount's power.
#[derive(Default)]
struct Power {
    kernel: OnceLock<KernelMount>,
    /// When it failed.
    failed: Mutex<Option<CrashPoint>>,
}

impl Power {
    /// Programs get no more answers; the session ends.
    fn fail(&self, point: CrashPoint) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(point);
        if let Some(kernel) = self.kernel.get() {
            kernel.unmount_now();
        }
    }

    fn failed(&self) -> Option<CrashPoint> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl FaultMount {
    /// Makes the mount; when this returns it answers.
    ///
    /// # Errors
    /// A [`Failure`] with the cause and the remedy; nothing is left mounted.
    pub fn start(plan: MountPlan) -> Result<Self, Failure> {
        preflight::check(&plan)?;
        let open_files_max = raise_open_files_limit();
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(format!("cannot record {}: {error}", plan.backing.display()))
        };
        let backing = LinuxBacking::open(&plan.backing, mount::backing_options(&plan.options))
            .map_err(|error| Failure::new(error.to_string()))?;
        mount::engine::recover_first(&backing, &plan.backing, &plan.options)?;
        let filesystem = backing.filesystem_name();
        let power = Arc::new(Power::default());
        let fails = Arc::clone(&power);
        let live = Arc::new(Live::new(move |point| fails.fail(point)));
        let tree = record(backing, live, &plan).map_err(|error| failed(&error))?;
        tree.set_policy(plan.settings.policy.clone());

        let (out, counters) = (Arc::new(Channel::default()), Arc::new(Counters::default()));
        let options = SkinOptions {
            passthrough: false,
            // What failed syncs leave changes files behind the kernel's back.
            attr_timeout: Duration::ZERO,
            ..mount::skin_options(&plan.options)
        };
        let counted = Arc::clone(&counters);
        let skin = Arc::new(Skin::new(Arc::clone(&tree), Arc::clone(&out), counted, options));
        let (sender, events) = channel();
        let kernel = KernelMount::classic(&plan, &skin, &out, sender.clone())?;
        let device_number = kernel.device_number().to_owned();
        kernel.wait_until_it_answers()?;
        let _ = power.kernel.set(kernel);
        let lab = Lab {
            plan: plan.clone(),
            tree,
            counters,
            skin,
            filesystem,
            open_files_max,
            started: Instant::now(),
            power,
        };
        let lab = Arc::new(lab);
        let answers = Arc::clone(&lab) as Arc<dyn Answers>;
        let control = ControlServer::start(&device_number, &answers, sender.clone())?;
        mount::watch_signals(sender)?;
        tracing::warn!(
            backing = %plan.backing.display(),
            mount_point = %plan.mount_point.display(),
            "mounted for failures on purpose: `lanefs fault` takes orders"
        );
        Ok(Self { plan, lab, control, events })
    }

    /// Serves until the mount ends or its power fails.
    ///
    /// # Errors
    /// The end was not clean, or what a power failure leaves cannot be laid out.
    pub fn serve(self) -> Result<(), Failure> {
        let kernel = self.lab.power.kernel.get().expect("set before anything is served");
        let shown = self.plan.mount_point.display();
        let mut answers = Vec::new();
        let ended = loop {
            match self.events.recv().expect("the signal thread holds a sender") {
                Event::Signal(_) => kernel.unmount_now(),
                Event::Unmount { lazy, answer } => match kernel.unmount(lazy) {
                    Ok(()) => answers.push(answer),
                    Err(error) => {
                        let busy = format!("cannot unmount {shown}: {error}; try --lazy");
                        let _ = answer.send(Err(Failure::new(busy)));
                    }
                },
                Event::SessionEnded(result) => break result,
                Event::Restart(wish) => wish.refuse(Failure::new(format!(
                    "this mount cannot be restarted without unmounting: {NO_RESTART}"
                ))),
                Event::RingFailed(_) => {}
            }
        };
        let outcome = match self.lab.power.failed() {
            Some(point) => self.lab.leave(&point),
            None => self.lab.tree.engine().flush(DRAIN_MAX).map_err(|error| {
                Failure::new(format!("not everything could be made durable: {error}"))
            }),
        };
        let outcome = outcome.and_then(|()| {
            let is_cut = self.lab.power.failed().is_some();
            let failed = |error| Failure::new(format!("the FUSE session failed: {error}"));
            if is_cut { Ok(()) } else { ended.map_err(failed) }
        });
        self.control.stop();
        self.lab.tree.backing().inner().release_lock();
        for answer in answers {
            let _ = answer.send(outcome.clone());
        }
        self.control.finish();
        outcome
    }
}

/// Reads the directory, and records from now on. Nothing is committed in the background: what
/// nobody synced stays unsynced.
fn record(
    backing: LinuxBacking,
    live: Arc<Live>,
    plan: &MountPlan,
) -> fs_core::error::Result<RecordedTree> {
    let what = RecordPlan { left_out: Some(HOME_NAME.into()), ..RecordPlan::of(".") };
    let recorder = Arc::new(Recorder::new(backing, what, Box::new(ProcWitness))?.failing(live));
    let config = EngineConfig { lanes: plan.options.lanes(), commit_interval: None };
    Engine::new(&*recorder, config).add_tree(recorder)
}

impl Lab {
    /// Lays out what a power failure leaves, in an empty directory.
    fn lay_out(&self, point: &CrashPoint, directory: &Path) -> Result<(), Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            let shown = directory.display();
            Failure::new(format!(
                "cannot lay out what the power failure leaves in {shown}: {error}"
            ))
        };
        let model = point.cut.model.as_deref().unwrap_or(MODEL_DEFAULT);
        let model = known_model(model).map_err(Failure::new)?;
        let trace = self.tree.backing().trace();
        let mut blocks = Blocks::default();
        let subject = Subject::new(&trace, &mut blocks);
        let law = Law::new(model, &subject.log);
        let crash = draw(&law, point.at, point.cut.lose, point.cut.seed);
        let state = law.state(&subject, &mut blocks, &crash);
        layout::own_root(&state, directory)
            .and_then(|()| layout::lay_out(&subject.log, &state, &blocks, directory))
            .map_err(|error| failed(&error))
    }

    /// The backing directory becomes what the power failure leaves.
    fn leave(&self, point: &CrashPoint) -> Result<(), Failure> {
        let scratch = tempfile::tempdir()
            .map_err(|error| Failure::new(format!("cannot make a scratch directory: {error}")))?;
        self.lay_out(point, scratch.path())?;
        layout::replace(scratch.path(), &self.plan.backing)?;
        tracing::warn!(
            operations = point.at,
            backing = %self.plan.backing.display(),
            "the power failed; the backing directory is what that leaves"
        );
        Ok(())
    }

    fn fault(&self, request: FaultRequest) -> Result<Response, Failure> {
        let recorder = self.tree.backing();
        let live = recorder.live().expect("made with it");
        match request {
            FaultRequest::Add { rules } => {
                live.faults.add(rules).map_err(Failure::usage)?;
            }
            FaultRequest::Clear { id } => {
                if live.faults.clear(id) == 0 && id.is_some() {
                    return Err(Failure::usage("there is no rule with that number"));
                }
            }
            FaultRequest::List => {}
            FaultRequest::Forget => {
                let failed = |error| Failure::new(format!("cannot write the old bytes: {error}"));
                let bytes = recorder.evict().map_err(failed)?;
                return Ok(Response::Forgotten { bytes });
            }
            FaultRequest::Crash { cut, to } => {
                let point = CrashPoint { at: recorder.operations(), cut };
                return self.crash(point, to);
            }
        }
        Ok(Response::Faults { faults: live.faults.report() })
    }

    fn crash(&self, point: CrashPoint, to: Option<PathBuf>) -> Result<Response, Failure> {
        let operations = point.at;
        known_model(point.cut.model.as_deref().unwrap_or(MODEL_DEFAULT)).map_err(Failure::usage)?;
        let Some(directory) = to else {
            self.power.fail(point);
            let directory = self.plan.backing.clone();
            return Ok(Response::Crashed { operations, directory });
        };
        let made = std::fs::create_dir(&directory);
        made.map_err(|error| {
            let shown = directory.display();
            Failure::new(format!("cannot make the directory {shown}: {error}; give a new name"))
        })?;
        self.lay_out(&point, &directory)?;
        Ok(Response::Crashed { operations, directory })
    }

    fn report(&self) -> StatusReport {
        let (nodes, files, directories) = self.tree.counts();
        let backing = self.tree.backing().inner();
        StatusReport {
            schema: STATUS_SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            mount_point: self.plan.mount_point.clone(),
            backing: self.plan.backing.clone(),
            filesystem: self.filesystem,
            uptime_s: self.started.elapsed().as_secs(),
            restarts: 0,
            restart_pause_ms: 0.0,
            no_restart: Some(NO_RESTART.to_owned()),
            read_only: false,
            transport: "classic: the mount is recorded".to_owned(),
            durability: DurabilityReport::of(&self.plan.settings),
            passthrough: false,
            handles: backing.uses_handles(),
            impersonation: backing.can_impersonate(),
            open_files_max: self.open_files_max,
            nodes,
            files,
            directories,
            engine: self.tree.engine().status(),
            log: "none: failures on purpose were asked for".to_owned(),
            slow_syncs: self.skin.slow_syncs(),
            requests: self.counters.snapshot(),
        }
    }
}

impl Answers for Lab {
    fn answer(&self, request: Request) -> Response {
        match request {
            Request::Status => {
                let status = serde_json::to_value(self.report()).expect("a report is plain data");
                Response::Status { status }
            }
            Request::Fault { about } => self
                .fault(about)
                .unwrap_or_else(|failure| Response::Failed { message: failure.message }),
            _ => unanswerable(),
        }
    }
}
