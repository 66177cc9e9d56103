//! `lanefs log format`: a log outside of the backing directory.

use fs_core::log::format::{LOG_BYTES_DEFAULT, LOG_BYTES_MIN, SUPERBLOCK_MAGIC};
use fs_core::log::{Progress, format_store};
use fs_core::platform::LogStore;
use fs_core::platform::linux::{DeviceContent, LinuxLog, inspect_device};

use super::FormatArgs;
use super::table::print;
use crate::failure::Failure;
use crate::mount::engine::LogProgress;
use crate::mount::options::log_bytes;

pub(super) fn format(args: &FormatArgs) -> Result<(), Failure> {
    let shown = args.path.display();
    let is_new = !args.path.exists();
    if !is_new {
        refuse_content(args)?;
    }
    let bytes = match &args.size {
        Some(size) => log_bytes(size)?,
        None if is_new => LOG_BYTES_DEFAULT,
        None => 0,
    };
    let progress = LogProgress::new();
    let mut all = bytes;
    let made = LinuxLog::make_path(&args.path, bytes, &mut |done| {
        all = all.max(done);
        progress.show(Progress::Making(done, all));
    });
    progress.end();
    let log = made.map_err(|error| Failure::new(error.to_string()))?;
    if log.bytes() < LOG_BYTES_MIN {
        return Err(Failure::new(format!(
            "{shown} has {} bytes: a log needs {LOG_BYTES_MIN} at least",
            log.bytes()
        )));
    }
    let superblock = format_store(&log)
        .map_err(|error| Failure::new(format!("cannot write to {shown}: {error}")))?;
    let uuid: String = superblock.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    print(&format!(
        "{shown} is an empty log of {} MiB, UUID {uuid}.\n\
         Use it: lanefs mount BACKING MOUNTPOINT --log {shown}\n",
        superblock.log_bytes >> 20
    ))
}

/// Refuses to overwrite what somebody may want to keep.
fn refuse_content(args: &FormatArgs) -> Result<(), Failure> {
    let shown = args.path.display();
    let found = inspect_device(&args.path, &SUPERBLOCK_MAGIC);
    let found = found.map_err(|error| Failure::new(error.to_string()))?;
    let what = match found {
        DeviceContent::Empty => return Ok(()),
        _ if args.force => return Ok(()),
        DeviceContent::Log => "a log of lanefs".to_owned(),
        DeviceContent::Foreign(what) => what.to_owned(),
        DeviceContent::Unknown => "something that lanefs does not know".to_owned(),
    };
    Err(Failure::usage(format!(
        "{shown} carries {what}, which would be lost: nothing was changed; \
         check that this is the right device, then say --force"
    )))
}
