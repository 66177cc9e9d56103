//! What a daemon hands to the program that replaces it: its descriptors, by number.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use super::object::ObjectInner;
use super::{Dir, LinuxBacking};
use crate::error::{Errno, Result};
use crate::platform::{Carried, ObjectKey};

/// A descriptor survives `execve(2)` under its number.
impl Carried for LinuxBacking {
    type Token = i32;

    fn object_token(&self, object: &Self::Object) -> Option<i32> {
        object.needed_descriptor()
    }

    fn file_token(&self, file: &Self::File) -> i32 {
        file.as_raw_fd()
    }

    fn dir_token(&self, dir: &Self::Dir) -> i32 {
        dir.as_fd().as_raw_fd()
    }

    fn take_object(&self, key: &ObjectKey, token: Option<i32>) -> Result<Self::Object> {
        let fd = token.map(|token| self.inherited(token)).transpose()?;
        let object = Arc::new(ObjectInner::again(key, fd)?);
        self.cache.note(&object);
        Ok(object)
    }

    fn take_file(&self, token: i32) -> Result<Self::File> {
        self.inherited(token)
    }

    fn take_dir(&self, token: i32) -> Result<Self::Dir> {
        Ok(Dir::new(self.inherited(token)?))
    }
}

impl LinuxBacking {
    fn inherited(&self, number: i32) -> Result<OwnedFd> {
        self.inherited.as_ref().ok_or(Errno::BADF)?.get(number)
    }
}
