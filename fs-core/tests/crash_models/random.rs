//! Random traces: what holds for every model, whatever was done.

use fs_core::crash::law::{Crash, Law, Subject};
use fs_core::crash::model;
use fs_core::crash::plan::{Budget, plan};
use fs_core::crash::state::Blocks;
use fs_core::crash::trace::{Ino, Operation};
use proptest::prelude::*;

use super::script::Script;

#[derive(Debug, Clone)]
enum Act {
    Create,
    Write(usize, u16, u16),
    Resize(usize, u16),
    Punch(usize, u16, u16),
    Rename(usize),
    Unlink(usize),
    Sync(usize, bool),
    SyncDir,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => Just(Act::Create),
        5 => (0..4_usize, 0..9000_u16, 1..9000_u16).prop_map(|(f, at, n)| Act::Write(f, at, n)),
        1 => (0..4_usize, 0..9000_u16).prop_map(|(f, n)| Act::Resize(f, n)),
        1 => (0..4_usize, 0..9000_u16, 1..9000_u16).prop_map(|(f, at, n)| Act::Punch(f, at, n)),
        2 => (0..4_usize).prop_map(Act::Rename),
        1 => (0..4_usize).prop_map(Act::Unlink),
        2 => (0..4_usize, any::<bool>()).prop_map(|(f, full)| Act::Sync(f, full)),
        1 => Just(Act::SyncDir),
    ];
    prop::collection::vec(act, 1..14)
}

/// Carries the acts out on up to four files that have names.
fn script(acts: &[Act]) -> Script {
    let mut script = Script::new();
    let mut files: Vec<(Ino, String)> = Vec::new();
    for (number, act) in acts.iter().enumerate() {
        let pick = |place: usize| if files.is_empty() { None } else { Some(place % files.len()) };
        match *act {
            Act::Create => {
                let name = format!("f{number}");
                let ino = script.create(&name);
                files.push((ino, name));
            }
            Act::Write(file, at, bytes) => {
                let Some(file) = pick(file) else { continue };
                let content = vec![b'a' + (number % 26) as u8; bytes as usize];
                script.write(files[file].0, at.into(), &content);
            }
            Act::Resize(file, bytes) => {
                if let Some(file) = pick(file) {
                    script.resize(files[file].0, bytes.into());
                }
            }
            // Also behind the end of the file: a panic once.
            Act::Punch(file, offset, bytes) => {
                let Some(file) = pick(file) else { continue };
                let (ino, offset, bytes) = (files[file].0, offset.into(), bytes.into());
                script.push(Operation::Allocate { ino, mode: 3, offset, bytes });
            }
            Act::Rename(file) => {
                let Some(file) = pick(file) else { continue };
                let (ino, name) = files[file].clone();
                let victim = files.iter().find(|(of, _)| *of != ino).cloned();
                let to = victim.as_ref().map_or(format!("r{number}"), |(_, name)| name.clone());
                script.rename(ino, &name, &to, victim.as_ref().map(|(ino, _)| *ino));
                files.retain(|(of, _)| *of != ino && Some(*of) != victim.as_ref().map(|v| v.0));
                files.push((ino, to));
            }
            Act::Unlink(file) => {
                if let Some(file) = pick(file) {
                    let (ino, name) = files.remove(file);
                    script.unlink(ino, &name);
                }
            }
            Act::Sync(file, full) => {
                let Some(file) = pick(file) else { continue };
                if full { script.fsync(files[file].0) } else { script.fdatasync(files[file].0) }
            }
            Act::SyncDir => script.fsync(Ino::ROOT),
        }
    }
    script
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    // Every planned crash is one that the model allows; every prefix is one; nothing but
    // what was synced is one; and what is forced is never lost by planning twice.
    #[test]
    fn planned_crashes_are_legal(acts in acts()) {
        let script = script(&acts);
        let mut blocks = Blocks::default();
        let subject = Subject::new(&script.trace, &mut blocks);
        for model in model::all() {
            let law = Law::new(model, &subject.log);
            for at in 0..=script.trace.operations.len() {
                let prefix = Crash { at, kept: law.prefix(at), torn: None };
                prop_assert!(law.allows(&prefix), "{}: prefix {at}", model.name());
                let least = Crash { at, kept: law.forced(at), torn: None };
                prop_assert!(law.allows(&least), "{}: least {at}", model.name());
            }
            let laws = [law];
            let budget = Budget { states_max: 500, ..Budget::default() };
            let planned = plan(&subject, &laws, &mut blocks, budget);
            for state in &planned.states {
                for (_, crash, strategy) in &state.crashes {
                    let name = model.name();
                    prop_assert!(laws[0].allows(crash), "{name}: {strategy:?} {crash:?}");
                    let state_key = laws[0].state(&subject, &mut blocks, crash).key(&subject.log, &mut blocks);
                    prop_assert_eq!(state_key, state.key);
                }
            }
        }
    }

    // What a stronger model allows, a weaker one does too.
    #[test]
    fn weaker_models_allow_more(acts in acts()) {
        let script = script(&acts[..acts.len().min(6)]);
        let allowed = |model: &str| {
            let mut blocks = Blocks::default();
            let subject = Subject::new(&script.trace, &mut blocks);
            let law = Law::new(model::by_name(model).expect("a model"), &subject.log);
            let operations = script.trace.operations.len();
            let crashes = fs_core::crash::plan::every_crash(&law, operations, 3000)?;
            let keys = crashes.iter().map(|crash| {
                law.state(&subject, &mut blocks, crash).key(&subject.log, &mut blocks)
            });
            Some(keys.collect::<std::collections::BTreeSet<u64>>())
        };
        for (strong, weak) in [
            ("ext4", "ext4-strict"), ("xfs", "posix-min"), ("posix-flush", "posix-min"),
            ("lanefs-close", "lanefs"), ("seq", "ext3-ordered"), ("lanefs", "ext4-strict"),
        ] {
            let (Some(strong_set), Some(weak_set)) = (allowed(strong), allowed(weak)) else {
                continue;
            };
            prop_assert!(strong_set.is_subset(&weak_set), "{strong} allows more than {weak}");
        }
    }
}

// Planning is quick: ten thousand crashes of a busy program, three models, in a fifth of a
// second (the bound is for a release build).
#[test]
fn planning_is_quick() {
    let mut script = Script::new();
    let log = script.create("log");
    for round in 0..60_u64 {
        script.write(log, round * 100, &[b'l'; 100]);
        script.fsync(log);
        let tmp = script.create("tmp");
        script.write(tmp, 0, &[b'a' + (round % 26) as u8; 5000]);
        script.rename(tmp, "tmp", &format!("d{round}"), None);
        script.push(Operation::Ack { stream: 1, data: fs_core::crash::trace::Blob(0) });
    }
    let mut blocks = Blocks::default();
    let subject = Subject::new(&script.trace, &mut blocks);
    let laws: Vec<Law<'_>> = ["ext4", "xfs", "btrfs"]
        .map(|name| Law::new(model::by_name(name).expect("a model"), &subject.log))
        .into();
    let start = std::time::Instant::now();
    let budget = Budget { crashes_max: 10_000, ..Budget::default() };
    let planned = plan(&subject, &laws, &mut blocks, budget);
    let (took, crashes) = (start.elapsed(), planned.crashes.iter().sum::<usize>());
    println!("{crashes} crashes, {} states in {took:?}", planned.states.len());
    assert!(crashes >= 10_000);
    if !cfg!(debug_assertions) {
        assert!(took.as_secs_f64() / crashes as f64 * 10_000.0 < 0.2, "{crashes} in {took:?}");
    }
}
