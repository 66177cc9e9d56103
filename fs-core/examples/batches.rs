//! Keeps three small files in step, in three ways, and tells what it cost.
//!
//!     cargo run -p fs-core --example batches -- DIRECTORY

use std::error::Error;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use fs_core::batch::{Files, FilesConfig};

/// Wakes a thread that has nothing else to do: all that a future needs.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn wait<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).ok_or("name a directory to write into")?;
    let files = Files::open(&dir, FilesConfig::default())?;
    files.create_dirs("accounts")?;
    files.write("accounts/total", "0")?;
    // Either both accounts and the total are new after a power cut, or none is.
    let transfer = |amount: u32| {
        files
            .batch()
            .write("accounts/alice", format!("{}", 100 - amount))
            .write("accounts/bob", format!("{amount}"))
            .copy("accounts/total", "accounts/total.before")
            .write("accounts/total", "100")
    };
    transfer(10).commit()?;
    wait(transfer(11).commit_async())?;
    // Many at once from one thread: those that are ready together share a flush.
    let (sender, results) = channel();
    for number in 0..50 {
        let sender = sender.clone();
        let batch = files.batch().write(format!("accounts/{number}"), "0");
        batch.commit_then(move |result| drop(sender.send(result)));
    }
    drop(sender);
    results.iter().try_for_each(|result| result)?;
    let status = files.status();
    println!(
        "{} batches with {} operations in {} groups, by {}{}",
        status.batches,
        status.batch_operations,
        status.engine.lanes.groups,
        status.engine.fence,
        status.no_log.map(|reason| format!(" ({reason})")).unwrap_or_default()
    );
    files.close(Duration::from_secs(10))?;
    Ok(())
}
