//! Many programs at once: what each was promised must hold whoever else was in its group.

use std::io;
use std::path::Path;

use super::{Place, Workload, files, names};
use crate::powercut::notes::{Notes, Promised};

struct Many {
    programs: Vec<(&'static str, Box<dyn Workload>)>,
}

/// One of each kind, each in a directory of its own.
pub fn many(seed: u64) -> Box<dyn Workload> {
    let programs: Vec<(&'static str, Box<dyn Workload>)> = vec![
        ("append", files::append(seed)),
        ("overwrite", files::overwrite(seed + 1)),
        ("replace", names::replace(seed + 2)),
        ("maildir", names::maildir(seed + 3)),
        ("osync", files::osync(seed + 4)),
    ];
    Box::new(Many { programs })
}

/// Actors of different programs have different numbers.
const ACTORS_MAX: u32 = 16;

impl Workload for Many {
    fn prepare(&self, root: &Path) -> io::Result<()> {
        for (name, program) in &self.programs {
            std::fs::create_dir(root.join(name))?;
            program.prepare(&root.join(name))?;
        }
        Ok(())
    }

    fn run(&self, place: &Place, notes: &Notes<'_>) -> io::Result<()> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..)
                .zip(&self.programs)
                .map(|(index, (name, program))| {
                    let (place, notes) = (place.below(name), notes.shifted(index * ACTORS_MAX));
                    scope.spawn(move || program.run(&place, &notes))
                })
                .collect();
            // All of them are waited for before the first error counts.
            let outcomes: Vec<_> =
                threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            outcomes.into_iter().try_for_each(|outcome| outcome.expect("no program panics"))
        })
    }

    fn steps(&self, actor: u32) -> Vec<String> {
        let program = self.programs.get((actor / ACTORS_MAX) as usize);
        program.map(|(_, program)| program.steps(actor % ACTORS_MAX)).unwrap_or_default()
    }

    fn check(&self, root: &Path, promised: &Promised) -> Result<(), String> {
        for (index, (name, program)) in (0..).zip(&self.programs) {
            let actors = index * ACTORS_MAX..(index + 1) * ACTORS_MAX;
            let promised = promised.shifted(actors, name);
            let judged = program.check(&root.join(name), &promised);
            judged.map_err(|error| format!("{name}: {error}"))?;
        }
        Ok(())
    }
}
