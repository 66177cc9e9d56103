//! A second process that does what it is told, possibly as another user.
//!
//! Locks, permissions and appends are about *processes*: threads share their locks and their user.
//! The program `actor` (src/bin/actor.rs) reads one command a line and answers with one line, `ok`
//! with a result or the name of the error; this is the other end of that conversation.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::scratch::Scratch;
use crate::{run, tools};

const COPY_DEADLINE: Duration = Duration::from_secs(30);

/// User 65534 with no group but 65534.
pub const NOBODY: Identity = Identity { user: 65534, groups: &[65534] };

/// Who an actor is. Its first group is its own, the others are supplementary.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// User id.
    pub user: u32,
    /// Group ids, at least one.
    pub groups: &'static [u32],
}

/// A process under our orders; dropped, it ends.
pub struct Actor {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    _program: Scratch,
}

impl Actor {
    /// Starts `program` (a test passes `env!("CARGO_BIN_EXE_actor")`) as root.
    #[track_caller]
    pub fn root(program: &str) -> Self {
        Self::start(program, |copy| Command::new(copy))
    }

    /// Starts `program` as somebody else, without any privilege.
    #[track_caller]
    pub fn somebody(program: &str, identity: Identity) -> Self {
        let setpriv = tools::debian("util-linux", "setpriv");
        let groups: Vec<String> = identity.groups.iter().map(u32::to_string).collect();
        Self::start(program, |copy| {
            let mut command = Command::new(setpriv);
            command.arg(format!("--reuid={}", identity.user));
            command.arg(format!("--regid={}", groups[0]));
            command.arg(format!("--groups={}", groups.join(","))).arg(copy);
            command
        })
    }

    fn start(program: &str, command: impl FnOnce(&Path) -> Command) -> Self {
        // A copy: cargo's target folder may lie where other users cannot go, such as /root.
        let scratch = Scratch::new(0);
        let copy = scratch.path().join("actor");
        // By another process: while this one has the copy open for writing, any other thread that
        // starts a program passes the descriptor on for a moment, and the copy cannot be executed
        // (ETXTBSY).
        run::run(Command::new("cp").arg(program).arg(&copy), COPY_DEADLINE).expect_success();
        let mut command = command(&copy);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Actor { child, orders, answers, _program: scratch }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives one order, such as `write /path 0 text`, and returns the answer. The words are those of
    /// src/bin/actor.rs; paths must not contain blanks.
    #[track_caller]
    pub fn ask(&mut self, order: &str) -> String {
        self.tell(order);
        self.answer()
    }

    /// Gives an order without waiting; [`Actor::answer`] must follow.
    #[track_caller]
    pub fn tell(&mut self, order: &str) {
        let orders = self.orders.as_mut().expect("open until dropped");
        writeln!(orders, "{order}").and_then(|()| orders.flush()).expect("a living actor");
    }

    /// The answer to the oldest order that has none yet.
    #[track_caller]
    pub fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        assert!(line.ends_with('\n'), "the actor died");
        line.trim_end().to_owned()
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // The end of its input is its end; killed all the same, in case it hangs in the kernel.
        self.orders = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
