//! Everything that is found on a filesystem, by objects and not by paths.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use fs_core::platform::sim::{SimBacking, SimObject};
use fs_core::platform::{Backing, Found, ObjectKey, OpenMode};
use fs_core::types::{Caller, FileKind};

/// An object for ever: inode number and generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u64, u64);

impl From<ObjectKey> for Key {
    fn from(key: ObjectKey) -> Self {
        let bytes = key.handle.0[8..16].try_into().expect("eight bytes");
        Self(key.ino, u64::from_le_bytes(bytes))
    }
}

/// What a directory holds.
pub type Entries = BTreeMap<String, Key>;

/// What is there.
#[derive(Debug, Default)]
pub struct Walk {
    pub dirs: BTreeMap<Key, Entries>,
    pub files: BTreeMap<Key, Vec<u8>>,
    /// A sum over all names, see [`name_hash`].
    pub names: u64,
    pub root: Option<Key>,
}

/// One name's part of the sum of all names: adding and removing are both XOR.
pub fn name_hash(dir: Key, name: &str, target: Key) -> u64 {
    let mut hasher = DefaultHasher::new();
    (dir, name, target).hash(&mut hasher);
    hasher.finish()
}

const NOBODY: Caller = Caller { uid: 0, gid: 0, thread: 0 };
const READ: OpenMode = OpenMode { read: true, write: false, truncate: false, no_atime: true };

impl Walk {
    /// Reads everything below the root.
    pub fn of(backing: &SimBacking) -> Self {
        let mut walk = Self::default();
        let root = backing.root().expect("there is always a root");
        walk.root = Some(root.key.into());
        walk.directory(backing, &root);
        walk
    }

    fn directory(&mut self, backing: &SimBacking, found: &Found<SimBacking>) {
        let key = Key::from(found.key);
        let dir = backing.open_dir(&found.object).expect("a directory opens");
        let mut names = Vec::new();
        let listed = backing.read_dir(&dir, 0, &mut |entry| {
            names.push(entry.name);
            true
        });
        listed.expect("a directory can be read");
        let mut entries = Entries::new();
        for name in names.into_iter().filter(|name| name != "." && name != "..") {
            let child = backing.lookup(&found.object, &name).expect("a listed name is there");
            let target = Key::from(child.key);
            let name = name.into_string().expect("the names of this test are text");
            self.names ^= name_hash(key, &name, target);
            entries.insert(name, target);
            if child.attr.kind == FileKind::Directory {
                assert!(!self.dirs.contains_key(&target), "a directory has one name");
                self.directory(backing, &child);
            } else {
                let read = || content(backing, &child.object, child.attr.size);
                self.files.entry(target).or_insert_with(read);
            }
        }
        self.dirs.insert(key, entries);
    }
}

fn content(backing: &SimBacking, object: &SimObject, size: u64) -> Vec<u8> {
    let mut content = vec![0; size as usize];
    let file = backing.open(NOBODY, object, READ).expect("a file opens");
    let bytes = backing.read(&file, &mut content, 0).expect("a file can be read");
    assert_eq!(bytes, content.len(), "a file is as long as it says");
    content
}
