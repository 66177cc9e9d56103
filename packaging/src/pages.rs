//! Man pages: one for each command, `lanefs-mount(1)` and so on, and for mount(8)'s helpers.
//!
//! What the arguments are comes from their definitions. The text below the help, with its tables and
//! examples, keeps its lines, which clap_mangen would run together. What only a man page says is here.

use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use fuse_frontend::cli::Cli;
use fuse_frontend::mount_helper::{MountWords, UmountWords};

use crate::{Result, fresh, save};

/// In the pages of commands that have `--commit-interval`, and in the first one.
const SYNC: &str = r"
.SH SYNC AND SYNCFS
.BR sync (2)
and
.BR syncfs (2)
do not reach a FUSE file system on an ordinary mount:
.BR syncfs (2)
on the mount returns 0 and does nothing, and
.BR sync (2)
writes back the file system below, but does not ask lanefs for anything.
What was done on the mount and nobody asked to be durable is committed by itself, about once in
.B \-\-commit\-interval
(1 s unless said otherwise; 0 means never).
So after
.BR sync (2)
a power cut loses at most what was done in that time: names and attributes within one interval,
the content of files with at most 1 MiB unwritten within one and a half, of others within five.
Without a log it is one on ext4 and XFS for names and attributes, five for content.
.PP
.BR fsync (2),
.BR fdatasync (2),
O_SYNC writes,
.BR umount (8)
and
.B lanefs umount
do reach it: when they return, what they are asked for is durable.
Use
.BR fsync (2),
or a mode of
.B \-\-durability
that does not need to be asked.
";

const FILES: &str = r"
.SH FILES
.TP
.I /etc/lanefs.toml
Settings of mounts and rules for parts of them;
.B lanefs config check
says what applies.
.TP
.I /etc/lanefs/NAME.conf
What
.B lanefs@NAME.service
mounts: BACKING, MOUNTPOINT, OPTIONS.
.TP
.I BACKING/.lanefs
The log. Never remove it while a recovery is due.
.TP
.I /run/lanefs
Sockets of running mounts.
";

/// Writes all pages.
pub fn write(directory: &Path) -> Result<()> {
    fresh(directory)?;
    // Global arguments and the names of subcommands are settled when it is built.
    let mut lanefs = Cli::command().disable_help_subcommand(true);
    lanefs.build();
    write_tree(directory, &lanefs, "lanefs")?;
    for helper in [MountWords::command(), UmountWords::command()] {
        let name = helper.get_name().to_owned();
        write_page(directory, &helper, &name, "8")?;
    }
    // The same under the other name that mount(8) looks for.
    for name in ["mount", "umount"] {
        let link = format!(".so man8/{name}.lanefs.8\n");
        save(&directory.join(format!("{name}.fuse.lanefs.8")), link.as_bytes())?;
    }
    Ok(())
}

fn write_tree(directory: &Path, command: &Command, name: &str) -> Result<()> {
    write_page(directory, command, name, "1")?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        write_tree(directory, sub, &format!("{name}-{}", sub.get_name()))?;
    }
    Ok(())
}

fn write_page(directory: &Path, command: &Command, name: &str, section: &str) -> Result<()> {
    let text =
        page(command, name, section).map_err(|error| format!("{name}({section}): {error}"))?;
    save(&directory.join(format!("{name}.{section}")), text.as_bytes())
}

fn page(command: &Command, name: &str, section: &str) -> std::io::Result<String> {
    let man = Man::new(command.clone().display_name(name.to_owned()))
        .title(name)
        .section(section)
        // No date: the same source makes the same page.
        .date("")
        .source(format!("lanefs {}", env!("CARGO_PKG_VERSION")))
        .manual("lanefs");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(&mut page)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut text = String::from_utf8(page).map_err(std::io::Error::other)?;
    let help = command.get_after_long_help().or_else(|| command.get_after_help());
    if let Some(help) = help {
        text.push_str(".SH NOTES\n.nf\n");
        text.push_str(&verbatim(&help.to_string()));
        text.push_str(".fi\n");
    }
    let has_interval =
        command.get_arguments().any(|argument| argument.get_id() == "commit_interval");
    if has_interval || name == "lanefs" || name == "mount.lanefs" {
        text.push_str(SYNC.trim_start());
    }
    if name == "lanefs" || has_interval {
        text.push_str(FILES.trim_start());
    }
    text.push_str(".SH SEE ALSO\n");
    let related =
        ["lanefs(1)", "lanefs-mount(1)", "lanefs-umount(1)", "mount.lanefs(8)", "mount(8)"];
    let itself = format!("{name}({section})");
    let others: Vec<_> = related.iter().filter(|other| **other != itself).copied().collect();
    text.push_str(&format!("{}\n", others.join(", ").replace('-', r"\-")));
    Ok(text)
}

/// Lines as they are: no line may look like a request, and a minus stays one.
fn verbatim(text: &str) -> String {
    let line = |line: &str| {
        let line = line.replace('\\', r"\e").replace('-', r"\-");
        let begins = if line.starts_with(['.', '\'']) { r"\&" } else { "" };
        format!("{begins}{line}\n")
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_of(words: &[&str]) -> String {
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        let found = words.iter().try_fold(&command, |command, word| command.find_subcommand(word));
        page(found.expect("a command"), "name", "1").expect("a page")
    }

    #[test]
    fn the_page_of_mount_says_what_sync_does() {
        let page = page_of(&["mount"]);
        for must in
            ["SYNC AND SYNCFS", r"\-\-commit\-interval", "fsync", ".SH FILES", r"\-\-print\-fstab"]
        {
            assert!(page.contains(must), "{must}");
        }
        assert!(!page_of(&["status"]).contains("SYNC AND SYNCFS"));
    }

    #[test]
    fn no_line_of_a_text_is_taken_for_a_request() {
        assert_eq!(verbatim(".TH x\n'a\n  -o a\\b"), "\\&.TH x\n\\&'a\n  \\-o a\\eb\n");
    }
}
