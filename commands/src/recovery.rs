//! What `lanefs recover` and `lanefs check` tell.

use fs_core::log::recovery::RecoveryReport;

use crate::arguments::RecoverArgs;
use crate::failure::Failure;
use crate::table::{print, row, table};

/// Prints what was found; `done`: and done about it.
///
/// # Errors
/// Standard output cannot be written.
pub fn show(
    args: &RecoverArgs,
    report: Option<&RecoveryReport>,
    done: bool,
) -> Result<(), Failure> {
    if args.json {
        let json = serde_json::to_string(&report).expect("a report is plain data");
        return print(&format!("{json}\n"));
    }
    let shown = args.backing.display();
    let Some(report) = report else {
        return print(&format!("{shown} has no log: there is nothing to recover.\n"));
    };
    print(&format!("{}\n{}", paragraph(&shown, report, done), figures(report)))
}

/// What happened, or would, in words.
fn paragraph(shown: &impl std::fmt::Display, report: &RecoveryReport, done: bool) -> String {
    let (operations, bytes, files) = (report.redone, report.bytes_filled, report.files_filled);
    let gone = match report.files_gone {
        0 => String::new(),
        gone => format!(" {gone} files in the log had been removed since."),
    };
    let undone = match report.rewrites_undone {
        0 => String::new(),
        files => format!(" {files} files that were just being rewritten have their old content."),
    };
    if report.is_nothing() {
        return format!(
            "{shown} is up to date: everything in its log is in the files already.{gone}\n"
        );
    }
    let cause = if report.same_boot { "the daemon ended" } else { "the power was cut" };
    if done {
        format!(
            "{shown} is up to date again. When {cause}, {operations} operations were in the log and \
             not in the directory, and are now; {files} files had no place yet for {bytes} bytes of \
             synced content, and have it now.{undone}{gone} Everything is durable, and the log is empty.\n"
        )
    } else {
        format!(
            "{shown} is not up to date: {operations} operations and {bytes} bytes of {files} files \
             are in the log only.{gone} Run `lanefs recover {shown}`, or mount it.\n"
        )
    }
}

fn figures(report: &RecoveryReport) -> String {
    table(&[
        row([&"groups in the log", &report.groups]),
        row([&"  bytes", &report.group_bytes]),
        row([&"  records", &report.records]),
        row([&"last operation kept by the filesystem", &report.marker]),
        row([&"last operation in the log", &report.last_lsn]),
        row([&"operations redone", &report.redone]),
        row([&"  that would leave nothing", &report.left_out]),
        row([&"  that were there already", &report.found_done]),
        row([&"  on objects that are gone", &report.passed_over]),
        row([&"files filled", &report.files_filled]),
        row([&"  bytes", &report.bytes_filled]),
        row([&"rewrites taken back", &report.rewrites_undone]),
        row([&"seconds", &format!("{:.3}", report.seconds)]),
    ])
}
