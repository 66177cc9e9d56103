//! Whatever a program does, replaying its recording gives the directory that it left, byte for byte.

use std::path::Path;

use tests::{require, run};

use super::lab::Lab;

const MUDDLE: &str = env!("CARGO_BIN_EXE_muddle");
const RUNS: u64 = 200;

// The report says `replay_identical`, and `Lab::report` insists on it.
#[test]
fn two_hundred_random_programs_replay_identically() {
    if !require::mount_support() {
        return;
    }
    let lab = Lab::new();
    // Something to begin with, holes and links included.
    let begin = "printf x > n0; ln n0 n1; truncate -s 100000 n2; mkdir d0; ln -s n0 d0/n3;
                 seq 1 5000 > n4; chmod 4755 n4";
    run::script::<&str>(&lab.dir(), begin, &[], std::time::Duration::from_secs(10))
        .expect_success();
    let mut operations = 0;
    for seed in 0..RUNS {
        let seed = seed.to_string();
        // The states do not matter here.
        let few = ["--json", "--model", "seq", "--max-states", "1", "--check", "true", "--"];
        let arguments: Vec<&str> = few.into_iter().chain([MUDDLE, &seed, "120"]).collect();
        let outcome = lab.run(&arguments);
        let report: serde_json::Value = serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}\n{}", outcome.describe()));
        assert_eq!(report["replay_identical"], true, "seed {seed}: {report:#}");
        operations += report["operations"].as_u64().expect("a number");
    }
    println!("{RUNS} programs, {operations} operations recorded");
    assert!(operations > RUNS * 60, "most operations are none: {operations}");
}

// fsx, which verifies what it reads, on the recording mount: mapped writes, truncations, holes.
#[test]
fn fsx_reads_what_it_wrote_and_replays_identically() {
    if !require::mount_support() {
        return;
    }
    let fsx = tests::tools::cargo_tool("fsx", "0.3.2");
    let fsx = fsx.to_str().expect("plain text");
    for seed in ["1", "2", "3"] {
        let lab = Lab::new();
        let few = ["--json", "--model", "seq", "--max-states", "1", "--check", "true", "--"];
        let program = [fsx, "-S", seed, "-N", "2000", "file"];
        let arguments: Vec<&str> = few.into_iter().chain(program).collect();
        let outcome = lab.run(&arguments);
        let report: serde_json::Value = serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}\n{}", outcome.describe()));
        assert_eq!(report["replay_identical"], true, "seed {seed}: {report:#}");
        assert_eq!(report["program_failed"], serde_json::Value::Null, "seed {seed}: {report:#}");
    }
    assert!(Path::new(fsx).exists());
}
