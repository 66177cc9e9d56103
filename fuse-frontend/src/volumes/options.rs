//! What can be said of one volume: the words of `docker volume create -o NAME=VALUE`.
//!
//! They are kept in the state file as they were checked here, so that a volume is mounted
//! the same way after every restart.

use std::collections::BTreeMap;
use std::path::PathBuf;

use fs_core::durability::Durability;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::mount::options::durability;

/// Highest permission bits of a volume's root.
const MODE_MAX: u32 = 0o7777;

/// Options of a volume, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeOptions {
    /// The directory with the files, absolute and without symbolic links; one below the root if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
    /// What is durable when a call returns, as it is written; the setting of the file if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<String>,
    /// Refuse changes.
    #[serde(default)]
    pub read_only: bool,
    /// Owner of the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group of the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Permission bits of the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Most bytes that the volume may hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Removing the volume removes its files.
    #[serde(default)]
    pub purge: bool,
}

impl VolumeOptions {
    /// Takes in what an engine passes on.
    ///
    /// # Errors
    /// An unknown name, a value that makes no sense, or two that contradict each other, with
    /// what would be right.
    pub fn parse(words: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let mut options = Self::default();
        for (name, value) in words {
            options.apply(name, value)?;
        }
        if options.purge && options.source.is_some() {
            return Err(Failure::usage(
                "purge=true with source=DIR: lanefs removes only directories that it made; \
                 leave purge out, and remove the directory by hand when it is not needed any more",
            ));
        }
        Ok(options)
    }

    fn apply(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        match name {
            "source" => self.source = Some(source(value)?),
            "durability" => self.durability = Some(durability(value)?.to_string()),
            "ro" => self.read_only = is_yes(name, value)?,
            "uid" => self.uid = Some(id(name, value)?),
            "gid" => self.gid = Some(id(name, value)?),
            "mode" => self.mode = Some(mode(value)?),
            "size" => self.size_bytes = Some(size_bytes(value)?),
            "purge" => self.purge = is_yes(name, value)?,
            _ => {
                return Err(Failure::usage(format!(
                    "unknown volume option `{name}`: the options are source=DIR, \
                     durability=fsync|close|always|relaxed:MS, ro, uid=N, gid=N, mode=OCTAL, \
                     size=SIZE, purge=true"
                )));
            }
        }
        Ok(())
    }

    /// The mode of durability, if the volume has one of its own.
    ///
    /// # Errors
    /// It is none, in a state file that somebody has changed.
    pub fn durability(&self) -> Result<Option<Durability>, Failure> {
        self.durability.as_deref().map(durability).transpose()
    }
}

fn source(value: &str) -> Result<PathBuf, Failure> {
    let path = PathBuf::from(value);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(Failure::usage(format!("source={value}: give an absolute path, like /srv/data")))
    }
}

/// `-o ro` comes as an empty value, `-o ro=true` as what is said.
fn is_yes(name: &str, value: &str) -> Result<bool, Failure> {
    match value {
        "" | "true" | "yes" | "1" => Ok(true),
        "false" | "no" | "0" => Ok(false),
        _ => Err(Failure::usage(format!("{name}={value}: say {name}=true or {name}=false"))),
    }
}

fn id(name: &str, value: &str) -> Result<u32, Failure> {
    // The highest number means "nobody in particular" to chown(2).
    match value.parse() {
        Ok(id) if id < u32::MAX => Ok(id),
        _ => Err(Failure::usage(format!("{name}={value}: give a number, like {name}=1000"))),
    }
}

fn mode(value: &str) -> Result<u32, Failure> {
    match u32::from_str_radix(value.trim_start_matches("0o"), 8) {
        Ok(mode) if mode <= MODE_MAX => Ok(mode),
        _ => {
            Err(Failure::usage(format!("mode={value}: give permissions in octal, like mode=0750")))
        }
    }
}

fn size_bytes(value: &str) -> Result<u64, Failure> {
    let text = value.to_ascii_uppercase();
    let text = text.trim_end_matches('B').trim_end_matches('I');
    let (digits, shift) = match text.chars().last() {
        Some('K') => (&text[..text.len() - 1], 10),
        Some('M') => (&text[..text.len() - 1], 20),
        Some('G') => (&text[..text.len() - 1], 30),
        Some('T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| {
        Failure::usage(format!("size={value}: give a size, like size=500M or size=10G"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[(&str, &str)]) -> Result<VolumeOptions, String> {
        let words = words.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        VolumeOptions::parse(&words.collect()).map_err(|failure| failure.message)
    }

    #[test]
    fn words_become_options() {
        let options = parse(&[
            ("source", "/srv/data"),
            ("durability", "relaxed:50"),
            ("ro", ""),
            ("uid", "1000"),
            ("gid", "0"),
            ("mode", "2750"),
            ("size", "10GiB"),
        ])
        .unwrap();
        assert_eq!(options.source.as_deref(), Some(std::path::Path::new("/srv/data")));
        assert_eq!(options.durability.as_deref(), Some("relaxed:50"));
        assert!(options.read_only && !options.purge);
        assert_eq!((options.uid, options.gid), (Some(1000), Some(0)));
        assert_eq!((options.mode, options.size_bytes), (Some(0o2750), Some(10 << 30)));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_remedy() {
        for (words, part) in [
            (&[("sorce", "/x")][..], "unknown volume option `sorce`"),
            (&[("source", "data")], "absolute path"),
            (&[("durability", "never")], "durability"),
            (&[("uid", "me")], "uid=1000"),
            (&[("mode", "999")], "octal"),
            (&[("size", "0")], "size=500M"),
            (&[("size", "99999999T")], "size=500M"),
            (&[("ro", "perhaps")], "ro=true"),
            (&[("purge", "true"), ("source", "/x")], "by hand"),
        ] {
            let message = parse(words).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn options_survive_the_state_file() {
        let options = parse(&[("durability", "close"), ("purge", "true")]).unwrap();
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<VolumeOptions>(&text).unwrap(), options);
    }
}
