//! Promise: the mount answers as the backing filesystem does, also where pjdfstest does not ask.
//!
//! Each scenario runs twice, on a plain ext4 directory and on lanefs over that ext4, and writes down
//! what every step returned: a value or the name of the error. The two transcripts must be equal,
//! line by line. Where the kernel keeps a FUSE filesystem from being equal (O_TMPFILE, fallocate's
//! collapse and insert), the exact difference is stated and checked.

mod data;
mod locks;
mod metadata;
mod names;
mod people;
mod transcript;
