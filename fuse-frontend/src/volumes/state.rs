//! What must survive a restart: which volumes there are, and who uses them.
//!
//! One file, written anew each time: temporary file, fsync, rename, fsync of the directory. So
//! it is old or new, whatever happens. It has a version; one that is not known is refused,
//! because guessing could lose volumes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::options::VolumeOptions;
use crate::failure::Failure;
use crate::mount::now_s;

/// Version of the file; raised when an older lanefs could not read it.
pub const STATE_VERSION: u32 = 1;

/// Everything that is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// [`STATE_VERSION`].
    version: u32,
    /// The boot during which the mounts were made: none of them survives its end.
    boot_id: String,
    /// The volumes by name.
    pub volumes: BTreeMap<String, Volume>,
}

/// A volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Volume {
    /// What was said of it when it was made.
    pub options: VolumeOptions,
    /// When that was, in seconds since 1970.
    pub created_unix_s: u64,
    /// Who has mounted it and not unmounted it since, by the engine's id. A set and not a count:
    /// Podman uses one id for all and counts itself, and Docker repeats calls.
    #[serde(default)]
    pub users: BTreeMap<String, User>,
}

/// One mount request that was not taken back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct User {
    /// When it came, in seconds since 1970.
    pub since_unix_s: u64,
}

impl User {
    /// One that has just come.
    #[must_use]
    pub fn now() -> Self {
        Self { since_unix_s: now_s() }
    }

    /// How long ago it came; zero after the clock was set back.
    #[must_use]
    pub fn age(&self) -> Duration {
        Duration::from_secs(now_s().saturating_sub(self.since_unix_s))
    }
}

/// The state and the file that it is kept in.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    state: State,
}

impl Store {
    /// Reads the file, or begins one. Users of an earlier boot are gone with their mounts.
    ///
    /// # Errors
    /// It cannot be read, is damaged, or is of a newer version. Nothing is changed then.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let boot_id = boot_id()?;
        let state = match std::fs::read(path) {
            Ok(text) => parse(&text, path)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                State { version: STATE_VERSION, boot_id: boot_id.clone(), volumes: BTreeMap::new() }
            }
            Err(error) => {
                return Err(Failure::new(format!("cannot read {}: {error}", path.display())));
            }
        };
        let mut store = Self { path: path.to_owned(), state };
        if store.state.boot_id != boot_id {
            store.update(|state| {
                state.boot_id = boot_id;
                state.volumes.values_mut().for_each(|volume| volume.users.clear());
            })?;
        }
        Ok(store)
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// A volume.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<&Volume> {
        self.state.volumes.get(name)
    }

    /// Changes the state and its file, or neither.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn update<T>(&mut self, change: impl FnOnce(&mut State) -> T) -> Result<T, Failure> {
        let mut next = self.state.clone();
        let value = change(&mut next);
        write(&self.path, &next).map_err(|error| {
            Failure::new(format!("cannot write the state file {}: {error}", self.path.display()))
        })?;
        self.state = next;
        Ok(value)
    }
}

fn parse(text: &[u8], path: &Path) -> Result<State, Failure> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let shown = path.display();
    let damaged = |error: serde_json::Error| {
        Failure::new(format!(
            "the state file {shown} is damaged: {error}; correct it, or move it away and create \
             the volumes again (their files stay where they are)"
        ))
    };
    let Version { version } = serde_json::from_slice(text).map_err(damaged)?;
    if version != STATE_VERSION {
        return Err(Failure::new(format!(
            "the state file {shown} is of version {version}, this lanefs knows version \
             {STATE_VERSION}: use the lanefs that wrote it, or a newer one"
        )));
    }
    serde_json::from_slice(text).map_err(damaged)
}

fn write(path: &Path, state: &State) -> std::io::Result<()> {
    let directory = path.parent().expect("a state file has a directory");
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    let mut text = serde_json::to_vec_pretty(state).expect("the state is plain data");
    text.push(b'\n');
    file.write_all(&text)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(directory)?.sync_all()
}

fn boot_id() -> Result<String, Failure> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let id = id.map_err(|error| Failure::new(format!("cannot read the boot id: {error}")))?;
    Ok(id.trim().to_owned())
}

/// A new volume's record.
#[must_use]
pub fn new_volume(options: VolumeOptions) -> Volume {
    Volume { options, created_unix_s: now_s(), users: BTreeMap::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("volumes.json");
        let mut store = Store::open(&path).unwrap();
        store
            .update(|state| {
                let mut volume = new_volume(VolumeOptions::default());
                volume.users.insert("one".to_owned(), User::now());
                state.volumes.insert("a".to_owned(), volume);
            })
            .unwrap();
        let again = Store::open(&path).unwrap();
        assert!(again.volume("a").unwrap().users.contains_key("one"));
        assert_eq!(
            std::fs::read_dir(place.path()).unwrap().count(),
            1,
            "no temporary file is left"
        );
    }

    #[test]
    fn users_end_with_their_boot() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("volumes.json");
        let text = r#"{"version":1,"boot_id":"another","volumes":{"a":{"options":{},
            "created_unix_s":1,"users":{"one":{"since_unix_s":2}}}}}"#;
        std::fs::write(&path, text).unwrap();
        assert!(Store::open(&path).unwrap().volume("a").unwrap().users.is_empty());
    }

    #[test]
    fn damage_and_newer_versions_are_refused_and_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("volumes.json");
        for (text, part) in [("{\"version\":1,", "damaged"), ("{\"version\":2}", "version 2")] {
            std::fs::write(&path, text).unwrap();
            let message = Store::open(&path).unwrap_err().message;
            assert!(message.contains(part), "{message}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
