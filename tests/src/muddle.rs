//! A program that does anything: random operations on a few files and directories, the same for the
//! same seed.
//!
//! Used where what happens does not matter, only that it is seen: recordings of the crash lab must
//! replay to what is there, and real filesystems must not do what the models forbid.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FallocateFlags, RenameFlags, XattrFlags};

use crate::mapping::SharedMapping;
use crate::random::Random;

/// What a run may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Every operation there is, files of up to 40 KiB.
    Everything,
    /// What a model's set can be listed for: files of up to two blocks, the usual operations.
    Small,
}

/// The run of a seed.
pub struct Muddle {
    directory: PathBuf,
    random: Random,
    kind: Kind,
}

const NAMES: usize = 8;
const O_DSYNC: i32 = nix::libc::O_DSYNC;

impl Muddle {
    /// In a directory that is there.
    pub fn new(directory: &Path, seed: u64, kind: Kind) -> Self {
        Muddle { directory: directory.to_owned(), random: Random::new(seed), kind }
    }

    /// Does so many operations, with a call after each. One that cannot be done, because of
    /// what others did, is none.
    pub fn run(&mut self, operations: usize, mut after: impl FnMut(usize)) {
        for number in 1..=operations {
            let _ = self.step();
            after(number);
        }
    }

    fn name(&mut self) -> PathBuf {
        let names = if self.kind == Kind::Small { 3 } else { NAMES };
        let name = format!("n{}", self.random.below(names));
        match self.random.below(4) {
            0 => self.directory.join("d0").join(name),
            1 if self.kind == Kind::Everything => self.directory.join("d1").join(name),
            _ => self.directory.join(name),
        }
    }

    fn below(&mut self, limit: usize) -> u64 {
        self.random.below(limit) as u64
    }

    fn bytes(&mut self) -> Vec<u8> {
        let most = if self.kind == Kind::Small { 5000 } else { 20_000 };
        // Letters: a difference can be read.
        let letter = b'a' + self.random.below(26) as u8;
        vec![letter; 1 + self.random.below(most)]
    }

    fn step(&mut self) -> io::Result<()> {
        let kinds = if self.kind == Kind::Small { 12 } else { 24 };
        let path = self.name();
        match self.random.below(kinds) {
            0 | 1 => fs::write(&path, self.bytes()),
            2 => self.overwrite(&path),
            3 => File::options().append(true).create(true).open(&path)?.write_all(&self.bytes()),
            4 => fs::rename(&path, self.name()),
            5 => fs::remove_file(&path),
            6 | 7 => File::open(&path)?.sync_all(),
            8 => File::open(path.parent().expect("in a directory"))?.sync_all(),
            9 => fs::create_dir(self.directory.join("d0")),
            10 => fs::hard_link(&path, self.name()),
            11 => File::options().write(true).open(&path)?.set_len(self.below(6000)),
            12 => File::open(&path)?.sync_data(),
            13 => fs::create_dir(self.directory.join("d1")),
            14 => symlink(format!("to-{}", self.below(9)), &path),
            15 => {
                fs::set_permissions(&path, Permissions::from_mode(0o600 + self.below(0o77) as u32))
            }
            16 => self.xattr(&path),
            17 => self.allocate(&path),
            18 => self.map(&path),
            19 => self.copy(&path),
            20 => self.exchange(&path),
            21 => {
                let mut options = OpenOptions::new();
                options.write(true).create(true).custom_flags(O_DSYNC);
                options.open(&path)?.write_at(&self.bytes(), 0).map(drop)
            }
            22 => self.keep_writing_without_a_name(&path),
            _ => {
                let name = if self.below(2) == 0 { "d0" } else { "d1" };
                fs::remove_dir(self.directory.join(name))
            }
        }
    }

    fn overwrite(&mut self, path: &Path) -> io::Result<()> {
        let offset = self.below(if self.kind == Kind::Small { 4096 } else { 20_000 });
        let file = File::options().write(true).open(path)?;
        file.write_all_at(&self.bytes(), offset)
    }

    fn xattr(&mut self, path: &Path) -> io::Result<()> {
        let name = format!("user.x{}", self.below(3));
        if self.below(3) == 0 {
            return Ok(rustix::fs::removexattr(path, name)?);
        }
        Ok(rustix::fs::setxattr(path, name, &self.bytes()[..1], XattrFlags::empty())?)
    }

    fn allocate(&mut self, path: &Path) -> io::Result<()> {
        let file = File::options().write(true).open(path)?;
        let flags = [
            FallocateFlags::empty(),
            FallocateFlags::KEEP_SIZE,
            FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE,
            FallocateFlags::ZERO_RANGE,
            FallocateFlags::COLLAPSE_RANGE,
        ];
        let flag = flags[self.random.below(flags.len())];
        let (offset, bytes) = (self.below(20_000), 1 + self.below(20_000));
        Ok(rustix::fs::fallocate(&file, flag, offset, bytes)?)
    }

    fn map(&mut self, path: &Path) -> io::Result<()> {
        let file = File::options().read(true).write(true).open(path)?;
        let length = file.metadata()?.len() as usize;
        if length == 0 {
            return Ok(());
        }
        let mapping = SharedMapping::new(&file, length)?;
        let at = self.random.below(length);
        mapping.write(at, &vec![b'M'; (length - at).min(6000)]);
        if self.below(2) == 0 { mapping.sync() } else { Ok(()) }
    }

    fn copy(&mut self, path: &Path) -> io::Result<()> {
        let (from, to) = (File::open(path)?, File::options().write(true).open(self.name())?);
        let (mut read, mut written) = (self.below(5000), self.below(5000));
        let (read, written) = (Some(&mut read), Some(&mut written));
        rustix::fs::copy_file_range(&from, read, &to, written, 8000).map(drop)?;
        Ok(())
    }

    fn exchange(&mut self, path: &Path) -> io::Result<()> {
        let other = self.name();
        Ok(rustix::fs::renameat_with(CWD, path, CWD, other, RenameFlags::EXCHANGE)?)
    }

    fn keep_writing_without_a_name(&mut self, path: &Path) -> io::Result<()> {
        let mut file = File::options().write(true).open(path)?;
        fs::remove_file(path)?;
        file.seek(SeekFrom::End(0))?;
        file.write_all(&self.bytes())
    }
}
