//! Promise: lanefs over a distributed filesystem makes durable what it says, survives the loss of a part
//! of it, and sends it fewer syncs than the programs ask for.
//!
//! GlusterFS from Debian's packages: three bricks, replicated, in namespaces of the test's own. What
//! reaches the bricks is counted by Gluster itself (`volume profile`).

mod cluster;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{binary, require, run};

use crate::cluster::Cluster;

const WRITERS: usize = 16;
const TURN: Duration = Duration::from_secs(3);
const TURNS: usize = 2;
const DEADLINE: Duration = Duration::from_secs(60);
/// Most syncs that may reach a brick for each sync of a program. Half of the programs' are of the directory
/// that they share; measured: docs/distributed.md.
const SYNCS_MAX: f64 = 0.9;
const LINE_BYTES: u64 = 100;

#[test]
fn lanefs_over_glusterfs_shares_syncs_and_survives_the_loss_of_a_brick() {
    if !require::mount_support() {
        return;
    }
    let cluster = Cluster::start();
    let plain = cluster.mount_point().join("plain");
    let backing = cluster.mount_point().join("backing");
    let mount = cluster.path().join("lanefs");
    fs::create_dir(&mount).expect("mkdir");
    cluster.run("mkdir", &[&plain, &backing]);
    let lanefs = binary::lanefs();
    let lanefs = lanefs.to_string_lossy();
    cluster.run(&format!("{lanefs} mount --daemon -o allow_other,workers=24"), &[&backing, &mount]);
    let status = cluster.run(&format!("{lanefs} status --json"), &[&mount]);
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["engine"]["fence"], "backing", "{status}");
    assert!(status["log"].as_str().is_some_and(|log| log.contains("FUSE")), "{status}");

    let mut figures = [[0.0; 3]; 2];
    for turn in 0..TURNS {
        for (side, place) in [&plain, &mount].into_iter().enumerate() {
            let place = place.join(format!("turn{turn}"));
            cluster.run("mkdir", &[&place]);
            let before = cluster.syncs_at_a_brick();
            let load = Load::start(&cluster, &place);
            sleep(TURN);
            let syncs = load.stop();
            let added = [syncs as f64, cluster.syncs_at_a_brick() - before, TURN.as_secs_f64()];
            figures[side].iter_mut().zip(added).for_each(|(sum, more)| *sum += more);
        }
    }
    println!("{WRITERS} writers deliver files into one directory: two syncs each");
    for (name, [syncs, at_brick, seconds]) in ["GlusterFS", "lanefs"].iter().zip(figures) {
        let (rate, share) = (syncs / seconds, at_brick / syncs);
        println!("{name:<10} {rate:6.0} syncs/s, {share:.3} reach a brick for each");
    }
    let [plain_share, share] = figures.map(|[syncs, at_brick, _]| at_brick / syncs);
    assert!(plain_share > 0.9, "GlusterFS shares syncs by itself ({plain_share:.3})?");
    assert!(share <= SYNCS_MAX, "{share:.3} syncs reach a brick for each of a program");

    // A brick is lost while they write.
    let place = mount.join("lost");
    cluster.run("mkdir", &[&place]);
    let load = Load::start(&cluster, &place);
    sleep(Duration::from_millis(700));
    let before = load.delivered(&cluster, &place);
    cluster.kill_brick(2);
    let went_on = run::poll(DEADLINE, || {
        (load.delivered(&cluster, &place) > before + 5 * WRITERS).then_some(())
    });
    assert!(went_on.is_some(), "writers stand still without a brick");
    let counts = load.stop_each();
    // What was acknowledged is there, for programs and on both bricks that are left.
    let bricks = [1, 3].map(|number| cluster.brick(number).join("backing/lost"));
    let seen = cluster.run("ls", &[&place]);
    for (writer, count) in counts.iter().enumerate() {
        for file in 0..count / 2 {
            let name = format!("w{writer}-{file}");
            assert!(seen.lines().any(|line| line == name), "{name} is lost");
            for brick in &bricks {
                let length = fs::metadata(brick.join(&name)).map(|stat| stat.len());
                assert_eq!(length.ok(), Some(LINE_BYTES), "{name} on {}", brick.display());
            }
        }
    }
    println!("a brick lost: {} files acknowledged, all there", counts.iter().sum::<u64>() / 2);
    cluster.run(&format!("{lanefs} umount"), &[&mount]);
}

/// Writers in the cluster's namespaces; dropped, they have ended.
struct Load {
    control: PathBuf,
    writers: Vec<Child>,
}

impl Load {
    fn start(cluster: &Cluster, place: &Path) -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let control = cluster.path().join(format!("control{count}"));
        fs::create_dir(&control).expect("mkdir");
        let program = env!("CARGO_BIN_EXE_writer");
        let start = |number| cluster.spawn(program, &[&control, Path::new(&format!("w{number}"))]);
        let writers = (0..WRITERS).map(start).collect();
        let is_ready = |number: usize| control.join(format!("w{number}.ready")).exists();
        let ready = || (0..WRITERS).all(is_ready).then_some(());
        assert!(run::poll(DEADLINE, ready).is_some(), "the writers are not ready");
        fs::write(control.join("order"), format!("deliver {}", place.display())).expect("a file");
        fs::rename(control.join("order"), control.join("0.go")).expect("a rename");
        Load { control, writers }
    }

    /// How many files there are.
    fn delivered(&self, cluster: &Cluster, place: &Path) -> usize {
        cluster.run("ls", &[place]).lines().count()
    }

    fn stop(self) -> u64 {
        self.stop_each().iter().sum()
    }

    /// Syncs that were answered, for each writer.
    #[track_caller]
    fn stop_each(mut self) -> Vec<u64> {
        fs::write(self.control.join("0.stop"), "").expect("a file");
        let started = Instant::now();
        let count = |number: usize| {
            let text = fs::read_to_string(self.control.join(format!("0.w{number}.count"))).ok()?;
            text.parse().ok()
        };
        let counts = || (0..WRITERS).map(count).collect::<Option<Vec<u64>>>();
        let counts = run::poll(DEADLINE, counts);
        let counts = counts.unwrap_or_else(|| panic!("a writer failed in {:?}", started.elapsed()));
        fs::write(self.control.join("end"), "").expect("a file");
        for writer in &mut self.writers {
            assert!(writer.wait().expect("an end").success());
        }
        self.writers.clear();
        counts
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for writer in &mut self.writers {
            let _ = writer.kill();
            let _ = writer.wait();
        }
    }
}
