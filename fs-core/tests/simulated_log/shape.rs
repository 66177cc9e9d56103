//! A tree as it looks to programs: names, kinds, attributes, hard links. Two trees
//! of one shape differ in nothing but numbers that the filesystem gives out.

use std::ffi::OsString;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hasher};

use fs_core::log::HOME_NAME;
use fs_core::platform::sim::{SimBacking, SimObject};
use fs_core::platform::{Backing, Found, ObjectKey, OpenMode};
use fs_core::types::{Attr, Caller, FileKind};

use crate::disk::LOG_NAME;

pub const NOBODY: Caller = Caller { uid: 0, gid: 0, thread: 0 };
const READ: OpenMode = OpenMode { read: true, write: false, truncate: false, no_atime: true };

/// What an object shows besides its name and content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    pub kind: FileKind,
    pub perm: u16,
    pub uid: u32,
    pub gid: u32,
    /// Names, 0 for a directory.
    pub links: u32,
    pub device: (u32, u32),
}

/// Sums up a tree: objects are numbered in the order in which they are met first.
pub struct Summing {
    hasher: DefaultHasher,
    depth: usize,
    text: Option<String>,
}

impl Summing {
    /// With `in_words` the tree is written down too.
    pub fn new(in_words: bool) -> Self {
        Self { hasher: DefaultHasher::new(), depth: 0, text: in_words.then(String::new) }
    }

    pub fn name(&mut self, name: &[u8], number: usize) {
        self.hasher.write_u64(number as u64);
        self.hasher.write(name);
        if let Some(text) = &mut self.text {
            let name = String::from_utf8_lossy(name);
            let _ = write!(text, "\n{:1$}{name} #{number}", "", 2 * self.depth);
        }
    }

    pub fn look(&mut self, look: Look, target: &[u8]) {
        let Look { kind, perm, uid, gid, links, device } = look;
        self.hasher.write_u64((kind as u64) << 32 | u64::from(perm));
        self.hasher.write_u64(u64::from(uid) << 32 | u64::from(gid));
        self.hasher.write_u64(u64::from(links) << 32 | u64::from(device.0 << 16 | device.1));
        self.hasher.write(target);
        if let Some(text) = &mut self.text {
            let target = String::from_utf8_lossy(target);
            let _ = write!(text, " {kind:?} {perm:o} {uid}:{gid} x{links} {device:?} {target}");
        }
    }

    pub fn xattr(&mut self, name: &[u8], value: &[u8]) {
        self.hasher.write(name);
        self.hasher.write_u64(value.len() as u64);
        self.hasher.write(value);
        if let Some(text) = &mut self.text {
            let _ = write!(text, " {}={}", String::from_utf8_lossy(name), value.len());
        }
    }

    pub fn enter(&mut self) {
        self.depth += 1;
        self.hasher.write_u64(u64::MAX);
    }

    pub fn leave(&mut self) {
        self.depth -= 1;
        self.hasher.write_u64(u64::MAX - 1);
    }

    pub fn end(self) -> (u64, Option<String>) {
        (self.hasher.finish(), self.text)
    }
}

/// An object that was found.
pub struct FoundObject {
    key: ObjectKey,
    object: SimObject,
    pub attr: Attr,
}

/// What is on a filesystem.
pub struct Walk {
    pub sum: u64,
    /// In the order of the numbers in the sum.
    pub objects: Vec<FoundObject>,
    /// Names by directory: number of the directory, name, number of the target.
    pub names: Vec<(usize, String, usize)>,
    pub text: Option<String>,
}

impl Walk {
    /// Reads everything but contents below the root; what is the engine's is not there.
    pub fn of(backing: &SimBacking, in_words: bool) -> Self {
        let root = backing.root().expect("there is always a root");
        let mut walk = Self { sum: 0, objects: Vec::new(), names: Vec::new(), text: None };
        let mut summing = Summing::new(in_words);
        walk.object(backing, root, &mut summing);
        (walk.sum, walk.text) = summing.end();
        walk
    }

    fn object(&mut self, backing: &SimBacking, found: Found<SimBacking>, summing: &mut Summing) {
        let Found { key, object, attr } = found;
        let is_dir = attr.kind == FileKind::Directory;
        let look = Look {
            kind: attr.kind,
            perm: attr.perm,
            uid: attr.uid,
            gid: attr.gid,
            links: if is_dir { 0 } else { attr.nlink },
            device: (attr.rdev_major, attr.rdev_minor),
        };
        let target = match attr.kind {
            FileKind::Symlink => backing.read_link(&object).expect("a link can be read"),
            _ => Vec::new(),
        };
        summing.look(look, &target);
        let names = backing.xattr_names(&object).expect("names of xattrs");
        for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            let os_name = fs_core::platform::os_name(name);
            summing.xattr(name, &backing.xattr(&object, os_name).expect("an xattr"));
        }
        let number = self.objects.len();
        self.objects.push(FoundObject { key, object, attr });
        if is_dir {
            summing.enter();
            self.entries(backing, number, summing);
            summing.leave();
        }
    }

    fn entries(&mut self, backing: &SimBacking, dir: usize, summing: &mut Summing) {
        let open = backing.open_dir(&self.objects[dir].object).expect("a directory opens");
        let mut names: Vec<OsString> = Vec::new();
        let listed = backing.read_dir(&open, 0, &mut |entry| {
            let is_ours = dir == 0 && (entry.name == HOME_NAME || entry.name == LOG_NAME);
            if !is_ours && entry.name != "." && entry.name != ".." {
                names.push(entry.name);
            }
            true
        });
        listed.expect("a directory can be read");
        names.sort_unstable();
        for name in names {
            let child =
                backing.lookup(&self.objects[dir].object, &name).expect("a listed name is there");
            let known = child.attr.nlink > 1 && child.attr.kind != FileKind::Directory;
            let known = known.then(|| self.objects.iter().position(|o| o.key == child.key));
            let known = known.flatten();
            let number = known.unwrap_or(self.objects.len());
            summing.name(name.as_encoded_bytes(), number);
            let name = name.into_string().expect("the names of this test are text");
            self.names.push((dir, name, number));
            if known.is_none() {
                self.object(backing, child, summing);
            }
        }
    }

    /// The content of a file.
    pub fn content(&self, backing: &SimBacking, number: usize, content: &mut Vec<u8>) {
        let FoundObject { object, attr, .. } = &self.objects[number];
        content.clear();
        content.resize(attr.size as usize, 0);
        let file = backing.open(NOBODY, object, READ).expect("a file opens");
        let bytes = backing.read(&file, content, 0).expect("a file can be read");
        assert_eq!(bytes, content.len(), "a file is as long as it says");
    }
}

impl Walk {
    /// Takes over what an object has besides names and attributes.
    pub fn rest_of(&self, backing: &SimBacking, number: usize, to: &mut crate::model::Object) {
        let FoundObject { object, attr, .. } = &self.objects[number];
        if attr.kind == FileKind::Symlink {
            to.target = backing.read_link(object).expect("a link can be read");
        }
        let names = backing.xattr_names(object).expect("names of xattrs");
        for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            let value = backing.xattr(object, fs_core::platform::os_name(name)).expect("an xattr");
            to.xattrs.insert(String::from_utf8_lossy(name).into_owned(), value);
        }
    }
}
