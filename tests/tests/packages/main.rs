//! Promise: what is installed beside the command is right, and made from its one definition.
//!
//! The Debian package itself takes minutes to build, so its test is a long one: `LANEFS_LONG=1`, or
//! `LANEFS_DEB=PATH` for a package that is there already.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::loopfs::LoopFs;
use tests::machine::{Init, Machine};
use tests::scratch::Scratch;
use tests::subject::is_bare;
use tests::{require, run, tools, workspace};

const BUILD_DEADLINE: Duration = Duration::from_secs(1800);
const DEADLINE: Duration = Duration::from_secs(60);

#[track_caller]
fn packaging(words: &[&str]) -> String {
    let mut command = Command::new(workspace::cargo());
    command.args(["run", "--quiet", "--package", "packaging", "--"]).args(words);
    let outcome = run::run(command.current_dir(workspace::root()), BUILD_DEADLINE);
    outcome.expect_success().stdout
}

fn pages(scratch: &Scratch) -> PathBuf {
    let directory = scratch.path().join("pages");
    packaging(&["pages", &directory.to_string_lossy()]);
    directory
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(directory).expect("a directory").flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}

/// A page as a terminal of 200 columns shows it; `man` must have nothing to warn of.
#[track_caller]
fn shown(page: &Path) -> String {
    let mut command = Command::new(tools::debian("man-db", "man"));
    command.args(["--warnings", "--encoding=UTF-8", "--local-file"]).arg(page);
    command.env("MANWIDTH", "200").env("LC_ALL", "C.UTF-8").env("MANPAGER", "cat");
    // Pages that refer to others look for them here.
    command.current_dir(page.parent().and_then(Path::parent).expect("a directory"));
    let outcome = run::run(&mut command, DEADLINE).expect_success();
    assert_eq!(outcome.stderr, "", "{}", page.display());
    outcome.stdout
}

#[test]
fn every_command_has_a_page_and_a_completion() {
    tools::debian("groff-base", "groff");
    let scratch = Scratch::new(0);
    let directory = pages(&scratch);
    let man = directory.join("man");
    // As they are installed: one page is another's text.
    std::os::unix::fs::symlink("man", directory.join("man8")).expect("a link");
    let all = files(&man);
    assert!(all.len() > 20, "{all:?}");
    for page in &all {
        let text = shown(page);
        assert!(text.contains("NAME") && text.contains("SEE ALSO"), "{}: {text}", page.display());
    }
    let mount = shown(&man.join("lanefs-mount.1"));
    let squeezed = mount.split_whitespace().collect::<Vec<_>>().join(" ");
    for must in [
        "SYNC AND SYNCFS",
        "do not reach a FUSE file system",
        "names and attributes within one interval",
        // Text keeps its lines: one option, one line.
        "noatime, atime leave access times alone (default: as the backing mount) nonempty",
    ] {
        assert!(squeezed.contains(must), "{must} not in {mount}");
    }

    // Whatever the help of the command lists has a page and can be completed.
    let help = run::run(Command::new(tests::binary::lanefs()).arg("--help"), DEADLINE).stdout;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    let names: Vec<_> =
        commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    let names: Vec<_> =
        names.into_iter().filter(|name| !name.is_empty() && *name != "help").collect();
    assert!(names.contains(&"mount"), "{help}");
    let completions = directory.join("completions");
    for name in names {
        assert!(man.join(format!("lanefs-{name}.1")).exists(), "no page of {name}");
        assert_eq!(completed(&completions.join("lanefs"), name), name);
        for file in files(&completions) {
            let text = fs::read_to_string(&file).expect("text");
            assert!(text.contains(name), "{name} not in {}", file.display());
        }
    }
}

/// What bash makes of `lanefs WORD<Tab>`.
#[track_caller]
fn completed(script: &Path, word: &str) -> String {
    let text = "source \"$1\"; COMP_WORDS=(lanefs \"$2\"); COMP_CWORD=1
                COMP_LINE=\"lanefs $2\"; COMP_POINT=${#COMP_LINE}
                _lanefs lanefs \"$2\" lanefs; echo \"${COMPREPLY[0]}\"";
    let words = [script.to_string_lossy().into_owned(), word.to_owned()];
    run::script(Path::new("/"), text, &words, DEADLINE).expect_success().stdout.trim().to_owned()
}

#[test]
fn zsh_and_fish_can_read_their_completions() {
    let scratch = Scratch::new(0);
    let completions = pages(&scratch).join("completions");
    for (shell, file) in [("zsh", "_lanefs"), ("fish", "lanefs.fish")] {
        let mut command = Command::new(tools::debian(shell, shell));
        let outcome = run::run(command.arg("-n").arg(completions.join(file)), DEADLINE);
        assert_eq!(outcome.expect_success().stderr, "", "{shell}");
    }
}

/// Built, judged by lintian, installed where systemd runs, used, removed.
#[test]
fn the_debian_package_installs_mounts_and_goes() {
    let built = std::env::var_os("LANEFS_DEB").map(PathBuf::from);
    if (built.is_none() && !tests::long_run()) || !require::mount_support() || is_bare() {
        eprintln!("a long test: LANEFS_LONG=1");
        return;
    }
    tools::debian("systemd", "systemd-analyze");
    tools::debian("man-db", "man");
    let (scratch, filesystem) = (Scratch::new(64), LoopFs::ext4(128));
    let out = scratch.path().join("out");
    match built {
        None => drop(packaging(&["deb", "--out", &out.to_string_lossy()])),
        Some(package) => {
            fs::create_dir(&out).expect("mkdir");
            fs::copy(&package, out.join("lanefs.deb")).expect("the package");
        }
    }
    let package = files(&out).pop().expect("a package");
    let shared = [(filesystem.path(), "/srv"), (out.as_path(), "/packages")];
    let machine = Machine::start(Init::Systemd, &shared);
    let name = package.file_name().expect("a name").to_string_lossy().into_owned();
    let installed = machine.run("dpkg", &["--install", &format!("/packages/{name}")]);
    installed.expect_success();
    let verify = "systemd-analyze verify lanefs@data.service lanefs-volume-plugin.socket \
                  lanefs-volume-plugin.service";
    let verified = machine.shell(verify).expect_success();
    assert_eq!((verified.stdout.as_str(), verified.stderr.as_str()), ("", ""), "not clean");
    assert_eq!(machine.say("systemctl is-enabled lanefs-volume-plugin.socket || true"), "disabled");
    machine.say("man mount.fuse.lanefs | grep -q remount; test -x /usr/sbin/mount.fuse.lanefs");
    machine.say(
        "mkdir -p /srv/data /mnt/data /etc/lanefs
         mount -t lanefs -o fence=log /srv/data /mnt/data; echo hello > /mnt/data/file
         umount /mnt/data; lanefs check /srv/data | grep -q 'up to date'
         cp /usr/share/doc/lanefs/examples/data.conf /etc/lanefs/
         cp /usr/share/doc/lanefs/examples/lanefs.toml /etc/; lanefs config check
         systemctl start lanefs@data; grep -q hello /mnt/data/file; systemctl stop lanefs@data
         dpkg --remove lanefs; test ! -e /usr/sbin/mount.lanefs; grep -q hello /srv/data/file",
    );
}
