//! Bytes as a recording of the crash lab: refused, or good enough to be planned.

#![no_main]

use fs_core::crash::artefact::Artefact;
use fs_core::crash::law::{Law, Subject};
use fs_core::crash::model;
use fs_core::crash::plan::{Budget, plan};
use fs_core::crash::state::Blocks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(artefact) = Artefact::from_contents(data) else { return };
    let mut blocks = Blocks::default();
    let subject = Subject::new(&artefact.trace, &mut blocks);
    let laws: Vec<Law<'_>> =
        model::all().into_iter().map(|model| Law::new(model, &subject.log)).collect();
    let budget = Budget { states_max: 20, crashes_max: 200, seed: 1 };
    let planned = plan(&subject, &laws, &mut blocks, budget);
    for (law, crash, _) in planned.states.iter().flat_map(|state| &state.crashes) {
        assert!(laws[*law].allows(crash));
    }
});
