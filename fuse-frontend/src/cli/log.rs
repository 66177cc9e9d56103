//! `lanefs log format`: a log outside of the backing directory.

use std::os::unix::fs::FileTypeExt;

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
    let is_device = args.path.metadata().is_ok_and(|found| found.file_type().is_block_device());
    let bytes = match &args.size {
        Some(size) => log_bytes(size)?,
        None if is_device => 0,
        None => LOG_BYTES_DEFAULT,
    };
    if args.path.exists() {
        refuse_content(args)?;
        make_room(args, is_device)?;
    }
    let progress = LogProgress::new();
    let mut all = bytes;
    let made = LinuxLog::make_path(&args.path, bytes, &mut |done| {
        all = all.max(done);
        progress.show(Progress::Making(done, all));
    });
    progress.end();
    let log = made.map_err(|error| Failure::new(error.to_string()))?;
    let superblock = format_store(&log)
        .map_err(|error| Failure::new(format!("cannot write to {shown}: {error}")))?;
    let uuid: String = superblock.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    print(&format!(
        "{shown} is an empty log of {} MiB, UUID {uuid}.\n\
         Use it: lanefs mount BACKING MOUNTPOINT --log {shown}\n",
        superblock.log_bytes >> 20
    ))
}

/// Checks that a device is large enough before anything is written; a file is made
/// anew.
fn make_room(args: &FormatArgs, is_device: bool) -> Result<(), Failure> {
    let shown = args.path.display();
    let failed =
        |error: &dyn std::fmt::Display| Failure::new(format!("cannot use {shown}: {error}"));
    // Also the claim that nobody else uses it.
    let found = LinuxLog::open_path(&args.path, 0).map_err(|error| failed(&error))?;
    if !is_device {
        drop(found);
        return std::fs::remove_file(&args.path).map_err(|error| failed(&error));
    }
    if found.bytes() < LOG_BYTES_MIN {
        return Err(Failure::new(format!(
            "{shown} has {} bytes, and a log needs {LOG_BYTES_MIN} at least: nothing was changed",
            found.bytes()
        )));
    }
    Ok(())
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
