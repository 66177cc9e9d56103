//! Real engines, and kill -9 of everything that takes part, at every step.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tests::random::Random;
use tests::run::{self, Outcome};
use tests::scratch::Scratch;
use tests::{leftovers, require};

use crate::plugin::{Plugin, signal};
use crate::runtime::{Kind, LIBRARIES, Runtime, alone, plugin_name, plugin_socket};

/// Patience with an engine that gets back on its feet; above the age of a user that is gone.
const PATIENCE: Duration = Duration::from_secs(45);

fn create(runtime: &Runtime, name: &str) -> Outcome {
    runtime.run(&["volume", "create", "--driver", &plugin_name(), name])
}

fn start_container(runtime: &Runtime, name: &str) -> Outcome {
    let volume = format!("{name}:/data");
    let volumes = [&[volume.as_str()], LIBRARIES].concat();
    let words = runtime.run_words(name, &volumes);
    runtime.run(&[words.as_slice(), &["writer", "count", "/data"]].concat())
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Daemon,
    Plugin,
    Engine,
    Container,
}

#[test]
fn docker_and_podman_keep_their_volumes_whoever_is_killed() {
    if !require::mount_support() {
        return;
    }
    let _alone = alone();
    // One after the other: both find the plugin under one name.
    for (kind, victims) in [
        (Kind::Docker, &[Victim::Daemon, Victim::Plugin, Victim::Engine, Victim::Container][..]),
        (Kind::Podman, &[Victim::Plugin, Victim::Engine, Victim::Container][..]),
    ] {
        let started = Instant::now();
        let scratch = Scratch::new(64);
        let root = scratch.subdirectory("root");
        let plugin = Plugin::at(scratch, &root, &plugin_socket(), &[]);
        let mut stage =
            Stage { runtime: Runtime::start(kind), plugin, random: Random::new(80), kills: 0 };
        stage.ordinary_life();
        for victim in victims {
            stage.life_with_kills(*victim);
        }
        stage.end();
        println!("{kind:?}: {} kills, {:.0} s", stage.kills, started.elapsed().as_secs_f64());
    }
}

struct Stage {
    // Dropped first: its containers use the volumes.
    runtime: Runtime,
    plugin: Plugin,
    random: Random,
    kills: u32,
}

impl Stage {
    fn ordinary_life(&mut self) {
        create(&self.runtime, "life").expect_success();
        let inspected = self.runtime.run(&["volume", "inspect", "life"]).expect_success();
        let inspected: Value = serde_json::from_str(&inspected.stdout).expect("JSON");
        assert_eq!(inspected[0]["Driver"], plugin_name(), "{inspected}");
        start_container(&self.runtime, "life").expect_success();
        self.wait_for_count("life", 3);
        if self.runtime.kind == Kind::Docker {
            let inspected = self.runtime.run(&["volume", "inspect", "life"]).expect_success();
            let inspected: Value = serde_json::from_str(&inspected.stdout).expect("JSON");
            let status = &inspected[0]["Status"];
            assert!(status["requests"]["fsync"].as_u64() >= Some(3), "{inspected}");
        }
        let refused = self.runtime.run(&["volume", "rm", "life"]);
        assert!(!refused.status.success(), "{}", refused.describe());
        let before = self.count("life");
        self.runtime.run(&["restart", "-t", "0", "life"]).expect_success();
        self.wait_for_count("life", before + 3);
        self.remove_container("life");
        assert!(!leftovers::is_mounted(&self.plugin.mount_point("life")));
        self.remove_volume("life");
    }

    /// A volume's life, somebody being killed during each step.
    fn life_with_kills(&mut self, victim: Victim) {
        let (started, name) = (Instant::now(), format!("{victim:?}").to_lowercase());
        let volume = self.with_kill(victim, &name, |runtime| create(runtime, &name));
        if !volume.status.success() {
            // It may be there: the engine did not hear the answer.
            self.repeat("create", |stage| {
                let done = create(&stage.runtime, &name);
                done.status.success() || done.stderr.contains("already exists")
            });
        }
        self.with_kill(victim, &name, |runtime| start_container(runtime, &name));
        self.ensure_running(&name);
        let before = self.count(&name);
        self.wait_for_count(&name, before + 2);

        // While it runs.
        self.kill(victim, &name);
        self.revive(victim);
        let said = self.said(&name);
        self.ensure_running(&name);
        assert!(
            self.count(&name) >= said,
            "{name}: acknowledged {said}, there is {}",
            self.count(&name)
        );
        let before = self.count(&name);
        self.wait_for_count(&name, before + 2);

        self.with_kill(victim, &name, |runtime| runtime.run(&["stop", "-t", "0", &name]));
        let said = self.said(&name);
        assert!(
            self.count(&name) >= said,
            "{name}: acknowledged {said}, there is {}",
            self.count(&name)
        );
        self.with_kill(victim, &name, |runtime| runtime.run(&["rm", "-f", &name]));
        self.remove_container(&name);
        self.with_kill(victim, &name, |runtime| runtime.run(&["volume", "rm", &name]));
        self.remove_volume(&name);
        assert!(self.count(&name) >= said, "{name}: files are lost with the volume");
        let seconds = started.elapsed().as_secs_f64();
        println!("{:?}: {victim:?} killed at every step, {seconds:.0} s", self.runtime.kind);
    }

    /// Runs a step while the victim is killed, and has everything running again. The plugin is
    /// started again while the step goes on, as systemd does it: engines repeat their calls.
    fn with_kill(
        &mut self,
        victim: Victim,
        name: &str,
        step: impl FnOnce(&Runtime) -> Outcome + Send,
    ) -> Outcome {
        let delay = Duration::from_millis(self.random.below(250) as u64);
        let pid = self.pid(victim, name);
        let Self { runtime, plugin, .. } = self;
        let outcome = thread::scope(|scope| {
            let stepping = scope.spawn(|| step(runtime));
            thread::sleep(delay);
            pid.inspect(|pid| signal(*pid, Signal::KILL));
            if victim == Victim::Plugin {
                plugin.reap();
                plugin.start();
            }
            stepping.join().expect("a command of the engine")
        });
        self.kills += u32::from(pid.is_some());
        if victim == Victim::Daemon {
            self.runtime.kill_daemon();
            self.runtime.start_daemon();
        }
        outcome
    }

    fn kill(&mut self, victim: Victim, name: &str) {
        let pid = self.pid(victim, name).expect("it runs");
        signal(pid, Signal::KILL);
        self.kills += 1;
    }

    fn pid(&self, victim: Victim, name: &str) -> Option<u32> {
        match victim {
            Victim::Daemon => self.runtime.daemon_pid(),
            Victim::Plugin => Some(self.plugin.pid()),
            Victim::Engine => self.plugin.engine_pid(),
            Victim::Container => {
                let words = ["inspect", "--format", "{{.State.Pid}}", name];
                let pid = self.runtime.run(&words).stdout.trim().parse().ok();
                pid.filter(|pid| *pid > 1)
            }
        }
    }

    fn revive(&mut self, victim: Victim) {
        match victim {
            Victim::Daemon => {
                self.runtime.kill_daemon();
                self.runtime.start_daemon();
            }
            Victim::Plugin => {
                self.plugin.reap();
                self.plugin.start();
            }
            Victim::Engine | Victim::Container => {}
        }
    }

    /// As an administrator does: start it; if that fails, make it anew.
    fn ensure_running(&self, name: &str) {
        self.repeat("container", |stage| {
            let words = ["inspect", "--format", "{{.State.Running}}", name];
            // A container whose volume's engine died ends by itself: it gets an error.
            let before = stage.count(name);
            let is_running = || stage.runtime.run(&words).stdout.trim() == "true";
            let counts = || (stage.count(name) > before).then_some(());
            if is_running() && run::poll(Duration::from_secs(3), counts).is_some() {
                return true;
            }
            if !stage.runtime.run(&["restart", "-t", "0", name]).status.success() {
                stage.runtime.run(&["rm", "-f", name]);
                start_container(&stage.runtime, name);
            }
            false
        });
    }

    fn remove_container(&self, name: &str) {
        self.repeat("rm", |stage| {
            stage.runtime.run(&["rm", "-f", name]);
            let list = stage.runtime.run(&["ps", "-a", "--format", "{{.Names}}"]);
            list.status.success() && !list.stdout.lines().any(|line| line == name)
        });
    }

    fn remove_volume(&self, name: &str) {
        self.repeat("volume rm", |stage| {
            stage.runtime.run(&["volume", "rm", name]);
            !stage.plugin.names().contains(&name.to_owned())
        });
        // The engine has forgotten it, too.
        self.repeat("volume ls", |stage| {
            stage.runtime.run(&["volume", "rm", "-f", name]);
            let list = stage.runtime.run(&["volume", "ls", "--format", "{{.Name}}"]);
            list.status.success() && !list.stdout.lines().any(|line| line == name)
        });
    }

    fn repeat(&self, what: &str, attempt: impl Fn(&Self) -> bool) {
        let done = run::poll(PATIENCE, || attempt(self).then_some(()));
        assert!(done.is_some(), "{what} does not succeed: {}", self.plugin.messages());
    }

    /// The number in the file, from the host's side.
    fn count(&self, name: &str) -> u64 {
        let text = fs::read_to_string(self.plugin.files(name).join("n")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// The last number that the container said: acknowledged.
    fn said(&self, name: &str) -> u64 {
        let log = self.runtime.run(&["logs", "--tail", "1", name]).stdout;
        log.trim().parse().unwrap_or(0)
    }

    fn wait_for_count(&self, name: &str, least: u64) {
        let counted = || (self.count(name) >= least).then_some(());
        let counted = run::poll(PATIENCE, counted);
        assert!(
            counted.is_some(),
            "{name} does not count: {}",
            self.runtime.run(&["logs", name]).describe()
        );
    }

    /// Nothing is mounted, nothing is known, nobody uses anything.
    fn end(&mut self) {
        assert!(self.plugin.names().is_empty(), "{:?}", self.plugin.names());
        let mounts = leftovers::mounts_below(&self.plugin.root().join("mounts"));
        assert!(mounts.is_empty(), "{mounts:?}");
        let pid = self.plugin.engine_pid().expect("an engine");
        self.plugin.terminate();
        self.plugin.wait_for_end_of(pid);
        self.plugin.start();
    }
}
