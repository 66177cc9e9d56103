//! Programs that never sync: `cp`, `sed -i`, `sort -o`, a shell's `>`, an editor that saves by rename,
//! a naive JSON writer in Python.
//!
//! Two things can be asked of what a power cut leaves of their files:
//! - *whole*: the content is that of one version, in any mode: never empty, torn or mixed;
//! - *kept*: in the modes `close` and `always`, what a program had done when it ended is there.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::{Place, Workload, run_actors};
use crate::powercut::notes::{Notes, Promised};
use crate::random::Random;
use crate::tools;

const FILES: usize = 6;
const STEPS: usize = 70;
const ACTORS: u32 = 2;

// Writes as a beginner would: no temporary file, no flush, no fsync. The document's text is ours,
// so that it can be judged like the others.
const JSON_WRITER: &str = "
import json, sys
for line in sys.stdin:
    source, target = json.loads(line)
    with open(source) as f:
        lines = f.read().splitlines()
    with open(target, 'w') as f:
        for text in lines:
            f.write(text + '\\n')
    print('done', flush=True)
";

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    /// `cp SOURCE FILE`: cuts the file and writes it again.
    Copy,
    /// `sort -o FILE SOURCE`: the same.
    Sort,
    /// `cat SOURCE > FILE`: the same.
    Shell,
    /// The same, in pieces.
    Json,
    /// `sed -i`: writes another file and renames it.
    Sed,
    /// The same by hand, as editors do.
    Editor,
}

const REWRITERS: &[Program] = &[Program::Copy, Program::Sort, Program::Shell, Program::Json];
const RENAMERS: &[Program] = &[Program::Sed, Program::Editor];

#[derive(Clone, Copy, Debug)]
struct Step {
    file: usize,
    program: Program,
    /// Length of the new content.
    lines: u64,
}

/// What is judged.
#[derive(Clone, Copy, PartialEq)]
enum Demand {
    WholeAndKept,
    /// Of a file that a program is rewriting when the power goes anything is accepted.
    Kept,
}

struct Legacy {
    seed: u64,
    demand: Demand,
    actors: Vec<Vec<Step>>,
}

/// Programs that replace files by renaming.
pub fn rename(seed: u64) -> Box<dyn Workload> {
    Legacy::boxed(seed, RENAMERS, Demand::WholeAndKept)
}

/// Programs that cut a file and write it again.
pub fn rewrite(seed: u64) -> Box<dyn Workload> {
    Legacy::boxed(seed, REWRITERS, Demand::WholeAndKept)
}

/// All of them; judged is only what was closed.
pub fn closed(seed: u64) -> Box<dyn Workload> {
    let all: Vec<_> = [REWRITERS, RENAMERS].concat();
    Legacy::boxed(seed, &all, Demand::Kept)
}

impl Legacy {
    fn boxed(seed: u64, programs: &[Program], demand: Demand) -> Box<dyn Workload> {
        let steps_of = |actor: u32| {
            let mut random = Random::new(seed ^ u64::from(actor) << 42);
            let mut lines = [0; FILES];
            (0..FILES).for_each(|file| lines[file] = start_lines(file));
            let step = |_| {
                let file = random.below(FILES);
                let program = programs[random.below(programs.len())];
                // `sed` changes every line and their number not.
                if program != Program::Sed {
                    let lines_max = if random.below(12) == 0 { 8000 } else { 120 };
                    lines[file] = 1 + random.below(lines_max) as u64;
                }
                Step { file, program, lines: lines[file] }
            };
            (0..STEPS).map(step).collect()
        };
        Box::new(Legacy { seed, demand, actors: (0..ACTORS).map(steps_of).collect() })
    }

    fn place(root: &Path, actor: usize) -> PathBuf {
        root.join(format!("actor-{actor}"))
    }

    fn run_actor(&self, root: &Path, actor: usize, notes: &Notes<'_>) -> io::Result<()> {
        let number = u32::try_from(actor).expect("few actors");
        // Sources lie on no disk of ours.
        let sources = tempfile::tempdir()?;
        let source = sources.path().join("source");
        let mut writer = JsonWriter::start()?;
        let place = Self::place(root, actor);
        for (step, Step { file, program, lines }) in (1..).zip(&self.actors[actor]) {
            let content = content(self.seed, number, *file, step, *lines);
            fs::write(
                &source,
                if *program == Program::Sort { backwards(&content) } else { content },
            )?;
            let target = place.join(name(*file));
            notes.acked(number, step, || match program {
                Program::Copy => run("cp", &[source.as_os_str(), target.as_os_str()]),
                Program::Sort => {
                    run("sort", &["-o".as_ref(), target.as_os_str(), source.as_os_str()])
                }
                Program::Shell => {
                    let script = "cat \"$1\" > \"$2\"";
                    let words = ["-c".as_ref(), script.as_ref(), "sh".as_ref()];
                    run("sh", &[&words[..], &[source.as_os_str(), target.as_os_str()]].concat())
                }
                Program::Json => writer.write(&source, &target),
                Program::Sed => {
                    let script = format!("s/^v[0-9]*/v{step:06}/");
                    run("sed", &["-i".as_ref(), script.as_ref(), target.as_os_str()])
                }
                Program::Editor => {
                    let temporary = place.join(format!(".{}.{step}", name(*file)));
                    let mut new = File::create_new(&temporary)?;
                    new.write_all(&fs::read(&source)?)?;
                    drop(new);
                    fs::rename(&temporary, &target)
                }
            })?;
        }
        writer.end()
    }

    fn check_file(
        &self,
        place: &Path,
        (actor, file): (u32, usize),
        promised: &Promised,
    ) -> Result<(), String> {
        let (progress, kept) = (promised.of(actor), promised.at_close);
        let left =
            |content: &[u8]| promised.was_left(&format!("actor-{actor}/{}", name(file)), content);
        let steps = (1..).zip(&self.actors[actor as usize]);
        let touching = steps.filter(|(_, step)| step.file == file);
        let begun = touching.take_while(|(number, _)| *number <= progress.begun);
        let versions: Vec<(u64, u64)> = std::iter::once((0, start_lines(file)))
            .chain(begun.map(|(number, step)| (number, step.lines)))
            .collect();
        let acked = versions.iter().rfind(|(number, _)| *number <= progress.acked);
        let (acked, _) = acked.copied().expect("version 0 is");
        let is_under_way = versions.iter().any(|(number, _)| *number > progress.acked);
        let whole = self.demand == Demand::WholeAndKept && !promised.without_copy;
        if !whole && (is_under_way || !kept) {
            return Ok(());
        }
        let found =
            fs::read(place.join(name(file))).map_err(|error| format!("MISSING: {error}"))?;
        let is =
            |&(step, lines): &(u64, u64)| found == content(self.seed, actor, file, step, lines);
        match versions.iter().rev().find(|version| is(version)) {
            Some((step, _)) if kept && *step < acked => {
                Err(format!("LOST: it is of step {step}, and step {acked} had ended"))
            }
            Some(_) => Ok(()),
            // Its program's write failed, with the daemon's death or the disk's error: it stays so.
            None if left(&found) => Ok(()),
            None if found.is_empty() => {
                Err(format!("EMPTY; step {acked} had ended, {:?} had begun", versions.last()))
            }
            None => Err(format!(
                "TORN OR MIXED: {} bytes; step {acked} had ended, {:?} had begun",
                found.len(),
                versions.last()
            )),
        }
    }
}

fn name(file: usize) -> String {
    format!("file-{file}.json")
}

fn start_lines(file: usize) -> u64 {
    20 + 15 * file as u64
}

/// A version of a file: its lines are in order, and each says whose it is.
fn content(seed: u64, actor: u32, file: usize, step: u64, lines: u64) -> Vec<u8> {
    let key = seed ^ (u64::from(actor) << 20) ^ ((file as u64) << 30);
    let line = |number: u64| {
        let noise = (key ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        format!("v{step:06} {number:06} {noise:016x}\n")
    };
    (0..lines).map(line).collect::<String>().into_bytes()
}

fn backwards(content: &[u8]) -> Vec<u8> {
    let mut lines: Vec<_> = content.split_inclusive(|byte| *byte == b'\n').collect();
    lines.reverse();
    lines.concat()
}

fn run(program: &str, words: &[&std::ffi::OsStr]) -> io::Result<()> {
    let output = Command::new(program).args(words).env("LC_ALL", "C").output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program}: {}: {}", output.status, said.trim())))
}

/// One process for all writes of an actor: starting Python takes longer than the rest.
struct JsonWriter {
    process: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl JsonWriter {
    fn start() -> io::Result<Self> {
        let mut command = Command::new(tools::debian("python3", "python3"));
        command.args(["-c", JSON_WRITER]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.stderr(Stdio::null()).spawn()?;
        let orders = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().expect("piped"));
        Ok(JsonWriter { process, orders, answers })
    }

    fn write(&mut self, source: &Path, target: &Path) -> io::Result<()> {
        let orders = self.orders.as_mut().expect("until it ends");
        writeln!(orders, "{}", serde_json::json!([source, target]))?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        if answer.trim() == "done" { Ok(()) } else { Err(io::Error::other("the writer failed")) }
    }

    fn end(mut self) -> io::Result<()> {
        drop(self.orders.take());
        self.process.wait().map(drop)
    }
}

impl Drop for JsonWriter {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Workload for Legacy {
    fn prepare(&self, root: &Path) -> io::Result<()> {
        for (actor, number) in (0..self.actors.len()).zip(0..) {
            let place = Self::place(root, actor);
            fs::create_dir(&place)?;
            for file in 0..FILES {
                let content = content(self.seed, number, file, 0, start_lines(file));
                fs::write(place.join(name(file)), content)?;
            }
        }
        Ok(())
    }

    fn run(&self, place: &Place, notes: &Notes<'_>) -> io::Result<()> {
        run_actors(self.actors.len(), |actor| self.run_actor(&place.root, actor, notes))
    }

    fn steps(&self, actor: u32) -> Vec<String> {
        super::in_words(&self.actors, actor)
    }

    fn check(&self, root: &Path, promised: &Promised) -> Result<(), String> {
        for actor in (0..).take(self.actors.len()) {
            let place = Self::place(root, actor as usize);
            for file in 0..FILES {
                self.check_file(&place, (actor, file), promised)
                    .map_err(|error| format!("actor-{actor}, {}: {error}", name(file)))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::powercut::snapshot::Snapshot;

    fn promised(acked: u64, begun: u64, at_close: bool) -> Promised {
        let actors = [0, 1].map(|actor| serde_json::json!([actor, acked, begun, acked]));
        Promised::from_json(&serde_json::json!(actors))
            .expect("promises")
            .promised_at_close(at_close)
    }

    #[test]
    fn whole_and_kept() {
        let last = STEPS as u64;
        for make in [rename, rewrite, closed] {
            let place = tempfile::tempdir().expect("scratch directory");
            let root = place.path().to_path_buf();
            let workload = make(4);
            workload.prepare(&root).expect("files");
            let there = Place { backing: root.clone(), root: root.clone() };
            workload.run(&there, &Notes::without_disk()).expect("all steps");
            assert_eq!(workload.check(&root, &promised(last, last, true)), Ok(()));
            assert_eq!(workload.check(&root, &promised(0, last, false)), Ok(()));
            let file = root.join("actor-1").join(name(3));
            let old = content(4, 1, 3, 0, start_lines(3));
            fs::write(&file, old).expect("scratch");
            let error = workload.check(&root, &promised(last, last, true)).unwrap_err();
            assert!(error.contains("LOST"), "{error}");
            assert_eq!(workload.check(&root, &promised(last, last, false)), Ok(()));
            fs::write(&file, "").expect("scratch");
            let error = workload.check(&root, &promised(last, last, true)).unwrap_err();
            assert!(error.contains("EMPTY"), "{error}");
        }
        let place = tempfile::tempdir().expect("scratch directory");
        let (whole, kept) = (rewrite(4), closed(4));
        whole.prepare(place.path()).expect("files");
        let file = place.path().join("actor-0").join(name(2));
        let first = content(4, 0, 2, 0, start_lines(2));
        fs::write(&file, &first[..first.len() / 2]).expect("scratch");
        let error = whole.check(place.path(), &promised(0, last, true)).unwrap_err();
        assert!(error.contains("TORN"), "{error}");
        assert!(whole.check(place.path(), &promised(0, last, false)).is_err(), "in any mode");
        assert_eq!(kept.check(place.path(), &promised(0, last, true)), Ok(()), "it is under way");
    }

    /// `--kill` called it a loss when a file was as the daemon's death had left it, while the next mount
    /// was making that durable and had not yet answered.
    #[test]
    fn what_a_dying_daemon_left_may_be_there() {
        let place = tempfile::tempdir().expect("scratch directory");
        let whole = rewrite(4);
        whole.prepare(place.path()).expect("files");
        let file = place.path().join("actor-0").join(name(2));
        fs::write(&file, "v0000").expect("scratch");
        let seen = std::sync::Arc::new(Snapshot::take(place.path()).expect("it can be read"));
        let left = promised(0, STEPS as u64, true).or_left([(String::new(), seen)]);
        assert_eq!(whole.check(place.path(), &left), Ok(()));
        fs::write(&file, "v000").expect("scratch");
        assert!(whole.check(place.path(), &left).is_err(), "that was never there");
    }
}
