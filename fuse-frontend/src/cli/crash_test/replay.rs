//! `replay` and `show`: a recording seen again.

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use fs_core::crash::artefact::{Artefact, Witness};
use fs_core::crash::judge::witness_in_words;
use fs_core::crash::law::{Crash, Law, Subject};
use fs_core::crash::model;
use fs_core::crash::plan;
use fs_core::crash::state::Blocks;
use fs_core::crash::words::Names;

use super::output::{Files, Output};
use super::{ExplainArgs, ReplayArgs, ShowArgs, absolute, models, run_campaign};
use crate::cli::table;
use crate::crash::campaign::{directory_of, told_by};
use crate::crash::check::{CheckJob, Checkers, Outcome};
use crate::crash::lab::Lab;
use crate::crash::layout;
use crate::crash::oracle::Oracle;
use crate::crash::record;
use crate::failure::Failure;

/// A recording, and the finding that was named.
fn read(named: &Path) -> Result<(Artefact, Option<usize>), Failure> {
    let text = named.as_os_str().as_bytes();
    let hash = text.iter().rposition(|byte| *byte == b'#').filter(|_| !named.exists());
    let (path, number) = match hash {
        Some(hash) => {
            let number = std::str::from_utf8(&text[hash + 1..]).ok().and_then(|n| n.parse().ok());
            let number = number
                .filter(|number: &usize| *number > 0)
                .ok_or_else(|| Failure::usage("after # comes the number of a finding, from 1"))?;
            (PathBuf::from(OsStr::from_bytes(&text[..hash])), Some(number))
        }
        None => (named.to_owned(), None),
    };
    let shown = path.display();
    let bytes = std::fs::read(&path)
        .map_err(|error| Failure::usage(format!("cannot read {shown}: {error}")))?;
    let artefact = Artefact::from_bytes(&bytes)
        .map_err(|error| Failure::usage(format!("{shown}: {error}")))?;
    let count = artefact.findings.len();
    if number.is_some_and(|number| number > count) {
        return Err(Failure::usage(format!("{shown} has {count} findings")));
    }
    Ok((artefact, number))
}

fn witness(artefact: &Artefact, number: usize) -> &Witness {
    &artefact.findings[number - 1]
}

fn law_of(witness: &Witness, subject: &Subject<'_>) -> Result<(Law<'static>, Crash), Failure> {
    let model = model::by_name(&witness.model)
        .ok_or_else(|| Failure::usage(format!("this lanefs has no model {}", witness.model)))?;
    let law = Law::new(model, &subject.log);
    let crash = witness.crash(&law).filter(|crash| law.allows(crash));
    let crash = crash.ok_or_else(|| {
        Failure::usage(format!("the model {} does not allow this crash any more", witness.model))
    })?;
    Ok((law, crash))
}

/// Checks again; true if something was found.
pub(super) fn run(args: &ReplayArgs) -> Result<bool, Failure> {
    let (artefact, number) = read(&args.recording)?;
    let models = models(&args.campaign.model)?;
    let directory = directory_of(&artefact.trace);
    let start = PathBuf::from(OsStr::from_bytes(&artefact.working_directory));
    let check = args.check.clone().unwrap_or_else(|| artefact.check.clone());
    if let Some(into) = &args.into {
        let Some(number) = number else {
            return Err(Failure::usage("--into lays one finding out: name it, NAME.crash#1"));
        };
        return lay_out(&artefact, number, &absolute(into)?).map(|()| false);
    }
    if !directory.is_dir() {
        return Err(Failure::usage(format!(
            "states are shown at {}, where they were recorded: make that directory",
            directory.display()
        )));
    }
    let plan = args.campaign.plan(models, check, directory, start);
    let files = Files::new(&args.campaign)?;
    let lab = Lab::enter()?;
    let Some(number) = number else {
        let report = run_campaign(&lab, &artefact.trace, &plan)?;
        let trace = &artefact.trace;
        let (difference, program, saved, known) = (None, None, None, files.known()?);
        let nested = args.campaign.nested(&lab, trace, &plan, &report)?;
        return Output {
            trace,
            plan: &plan,
            report: &report,
            difference,
            program,
            saved,
            known,
            nested,
        }
        .tell(&files, args.campaign.json);
    };
    let witness = witness(&artefact, number);
    let mut blocks = Blocks::default();
    let subject = Subject::new(&artefact.trace, &mut blocks);
    let (law, crash) = law_of(witness, &subject)?;
    let state = law.state(&subject, &mut blocks, &crash);
    let oracle = (plan.check.command == "auto").then(|| Oracle::new(&subject, &mut blocks));
    let oracle = oracle.as_ref();
    let blocks = RwLock::new(blocks);
    let checked = std::thread::scope(|scope| {
        let mut checkers =
            Checkers::start(scope, &lab, &plan.check, oracle, &subject.log, &blocks)?;
        let told = told_by(&artefact.trace, witness.told);
        checkers.submit(CheckJob { id: 0, state, told })?;
        checkers.next_verdict()
    })?;
    let checked = checked.ok_or_else(|| Failure::new("the checker gave no verdict"))?;
    let is_bad = matches!(checked.outcome, Outcome::Bad | Outcome::Timeout);
    let verdict = if is_bad { "bad" } else { "good" };
    table::print(&format!("{}: {verdict} ({})\n", witness.sentence, checked.ended))?;
    table::print(&checked.output)?;
    Ok(is_bad)
}

fn lay_out(artefact: &Artefact, number: usize, into: &Path) -> Result<(), Failure> {
    let mut blocks = Blocks::default();
    let subject = Subject::new(&artefact.trace, &mut blocks);
    let (law, crash) = law_of(witness(artefact, number), &subject)?;
    let state = law.state(&subject, &mut blocks, &crash);
    std::fs::create_dir(into)
        .and_then(|()| layout::lay_out(&subject.log, &state, &blocks, into))
        .map_err(|error| Failure::new(format!("cannot lay out {}: {error}", into.display())))
}

/// Lists what is in a recording.
pub(super) fn show(args: &ShowArgs) -> Result<(), Failure> {
    let (artefact, number) = read(&args.recording)?;
    let trace = &artefact.trace;
    let names = Names::new(trace);
    let mut text = String::new();
    let mut blocks = Blocks::default();
    let subject = Subject::new(trace, &mut blocks);
    if let Some(number) = number {
        let witness = witness(&artefact, number);
        let (law, crash) = law_of(witness, &subject)?;
        let _ =
            writeln!(text, "{} [{}]: {}", witness.class.name(), witness.model, witness.sentence);
        for line in witness_in_words(&crash, &subject.log, &law.rules, &names) {
            let _ = writeln!(text, "  {line}");
        }
        return table::print(&text);
    }
    let _ = writeln!(text, "{}", trace.command.join(" "));
    for operation in 0..trace.operations.len() {
        let actor = trace
            .actor(operation)
            .map_or(String::new(), |actor| format!("{}[{}]", actor.comm, actor.process));
        let _ = writeln!(text, "{operation:5} {actor:20} {}", names.call(trace, operation));
    }
    for (number, witness) in artefact.findings.iter().enumerate() {
        let (class, sentence) = (witness.class.name(), &witness.sentence);
        let _ = writeln!(text, "#{} {class} [{}]: {sentence}", number + 1, witness.model);
    }
    table::print(&text)
}

/// Looks for the crash that leaves a directory; true if the model allows none.
pub(super) fn explain(args: &ExplainArgs) -> Result<bool, Failure> {
    let (artefact, _) = read(&args.recording)?;
    let Some(model) = model::by_name(&args.model) else {
        return models(&args.model).map(|_| false);
    };
    let there = record::read_directory(&args.directory)?;
    let mut blocks = Blocks::default();
    let seen = Subject::new(&there, &mut blocks);
    let key = seen.initial().key(&seen.log, &mut blocks);
    let subject = Subject::new(&artefact.trace, &mut blocks);
    let law = Law::new(model, &subject.log);
    let end = artefact.trace.operations.len();
    let moments = match args.told {
        None => 0..=end,
        Some(told) => {
            let first = (0..=end).find(|at| subject.told(*at) >= told).unwrap_or(end);
            let last = (0..=end).rev().find(|at| subject.told(*at) <= told + 1).unwrap_or(end);
            first..=last.max(first)
        }
    };
    let max = args.max_crashes;
    let found = plan::explain(&subject, &law, &mut blocks, moments, key, max).ok_or_else(|| {
        Failure::new("too many crashes to look at: record less, or raise --max-crashes")
    })?;
    let Some(crash) = found else {
        table::print(&format!("{} allows no crash that leaves this\n", model.name()))?;
        return Ok(true);
    };
    let names = Names::new(&artefact.trace);
    let mut text = format!("{}: a crash before operation {}\n", model.name(), crash.at);
    for line in witness_in_words(&crash, &subject.log, &law.rules, &names) {
        let _ = writeln!(text, "  {line}");
    }
    table::print(&text).map(|()| false)
}
