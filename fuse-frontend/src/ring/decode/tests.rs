//! One request of every kind, laid out as `include/uapi/linux/fuse.h` says.

use super::*;
use fs_core::types::SetTime;

/// An operation's structure under construction: fields in their order.
#[derive(Default)]
struct OpIn(Vec<u8>);

impl OpIn {
    fn long(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn word(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn whole(mut self) -> Vec<u8> {
        self.0.resize(128, 0);
        self.0
    }
}

fn nothing() -> Vec<u8> {
    OpIn::default().whole()
}

/// Decodes, checks the kind, and has the request looked at.
#[track_caller]
fn expect(
    opcode: u32,
    op_in: &[u8],
    payload: &[u8],
    op: Op,
    is_right: impl Fn(&Request<'_>) -> bool,
) {
    let request =
        decode(opcode, op_in, payload).unwrap_or_else(|error| panic!("{opcode}: {error}"));
    assert_eq!(request.op(), op);
    assert!(is_right(&request), "{op:?} has other values than the kernel sent");
}

#[test]
fn operations_on_names() {
    let name = |name: &OsStr| name == "a";
    expect(
        1,
        &nothing(),
        b"a\0",
        Op::Lookup,
        |r| matches!(r, Request::Lookup { name: n } if name(n)),
    );
    expect(
        10,
        &nothing(),
        b"a\0",
        Op::Unlink,
        |r| matches!(r, Request::Unlink { name: n } if name(n)),
    );
    expect(
        11,
        &nothing(),
        b"a\0",
        Op::RmDir,
        |r| matches!(r, Request::RmDir { name: n } if name(n)),
    );
    expect(
        6,
        &nothing(),
        b"a\0to/b\0",
        Op::Symlink,
        |r| matches!(r, Request::Symlink { name: n, target } if name(n) && *target == "to/b"),
    );
    let mknod = OpIn::default().word(0o100_640).word(0x0103).word(0o27).word(0).whole();
    expect(8, &mknod, b"a\0", Op::MkNod, |r| {
        let new = NewMode { mode: 0o100_640, umask: 0o27 };
        matches!(r, Request::MkNod { name: n, new: m, rdev: 0x0103 } if name(n) && *m == new)
    });
    let mkdir = OpIn::default().word(0o755).word(0o22).whole();
    expect(9, &mkdir, b"a\0", Op::MkDir, |r| {
        let new = NewMode { mode: 0o755, umask: 0o22 };
        matches!(r, Request::MkDir { name: n, new: m } if name(n) && *m == new)
    });
    let link = OpIn::default().long(77).whole();
    expect(
        13,
        &link,
        b"a\0",
        Op::Link,
        |r| matches!(r, Request::Link { node: NodeId(77), name: n } if name(n)),
    );
    let rename = OpIn::default().long(9).word(2).word(0).whole();
    for (opcode, flags) in [(45, 2), (12, 0)] {
        expect(opcode, &rename, b"a\0b\0", Op::Rename, |r| {
            matches!(r, Request::Rename { name: n, new_parent: NodeId(9), new_name, flags: f }
                if name(n) && *new_name == "b" && *f == flags)
        });
    }
    let create = OpIn::default().word(0o102).word(0o100_644).word(0o22).word(0).whole();
    expect(35, &create, b"a\0", Op::Create, |r| {
        let new = NewMode { mode: 0o100_644, umask: 0o22 };
        matches!(r, Request::Create { name: n, new: m, flags: 0o102 } if name(n) && *m == new)
    });
}

#[test]
fn attributes() {
    expect(3, &nothing(), b"", Op::GetAttr, |r| matches!(r, Request::GetAttr));
    expect(5, &nothing(), b"", Op::ReadLink, |r| matches!(r, Request::ReadLink));
    expect(17, &nothing(), b"", Op::StatFs, |r| matches!(r, Request::StatFs));
    expect(34, &nothing(), b"", Op::Access, |r| matches!(r, Request::Access));
    let setattr = |valid| {
        let times = OpIn::default().word(valid).word(0).long(5).long(4096).long(0);
        let times = times.long((-2_i64).cast_unsigned()).long(20).long(30).word(7).word(8).word(9);
        times.word(0o104_755).word(0).word(1000).word(100).word(0).whole()
    };
    expect(4, &setattr(0x7f), b"", Op::SetAttr, |r| {
        let at = |secs, nanos| Some(SetTime::At(Time { secs, nanos }));
        let change = SetAttr {
            perm: Some(0o4755),
            uid: Some(1000),
            gid: Some(100),
            size: Some(4096),
            atime: at(-2, 7),
            mtime: at(20, 8),
        };
        r.may_wait()
            && matches!(r, Request::SetAttr { file: Some(FileId(5)), change: c } if *c == change)
    });
    expect(4, &setattr(0x1b0), b"", Op::SetAttr, |r| {
        let now = Some(SetTime::Now);
        let change = SetAttr { atime: now, mtime: now, ..SetAttr::default() };
        !r.may_wait() && matches!(r, Request::SetAttr { file: None, change: c } if *c == change)
    });
    let setxattr = OpIn::default().word(3).word(1).whole();
    expect(
        21,
        &setxattr,
        b"user.a\0xyz",
        Op::SetXattr,
        |r| matches!(r, Request::SetXattr { name, value: b"xyz", flags: 1 } if *name == "user.a"),
    );
    let size = OpIn::default().word(64).word(0).whole();
    expect(
        22,
        &size,
        b"user.a\0",
        Op::GetXattr,
        |r| matches!(r, Request::GetXattr { name, bytes: 64 } if *name == "user.a"),
    );
    expect(23, &size, b"", Op::ListXattr, |r| matches!(r, Request::ListXattr { bytes: 64 }));
    expect(
        24,
        &nothing(),
        b"user.a\0",
        Op::RemoveXattr,
        |r| matches!(r, Request::RemoveXattr { name } if *name == "user.a"),
    );
}

#[test]
fn files() {
    let open = |flags| OpIn::default().word(flags).word(0).whole();
    expect(14, &open(0o2), b"", Op::Open, |r| {
        !r.may_wait() && matches!(r, Request::Open { flags: 0o2 })
    });
    expect(14, &open(0o1002), b"", Op::Open, |r| {
        r.may_wait() && matches!(r, Request::Open { flags: 0o1002 })
    });
    let read = OpIn::default().long(5).long(4096).word(512).word(0).long(0).word(0).word(0).whole();
    expect(15, &read, b"", Op::Read, |r| {
        r.may_wait() && matches!(r, Request::Read { file: FileId(5), offset: 4096, bytes: 512 })
    });
    let write = |flags| {
        let to = OpIn::default().long(5).long(4096).word(3).word(flags).long(0);
        to.word(0o10_001).word(0).whole()
    };
    for (flags, keeps) in [(0, true), (4, false)] {
        expect(16, &write(flags), b"xyz+", Op::Write, |r| {
            let Request::Write(w) = r else { return false };
            (w.file, w.offset, w.data) == (FileId(5), 4096, b"xyz")
                && (w.keep_suid, w.flags) == (keeps, 0o10_001)
                && r.may_wait()
        });
    }
    let handle = OpIn::default().long(5).word(0).word(0).long(0).whole();
    expect(18, &handle, b"", Op::Release, |r| matches!(r, Request::Release { file: FileId(5) }));
    expect(25, &handle, b"", Op::Flush, |r| matches!(r, Request::Flush { file: FileId(5) }));
    for (flags, kind) in [(0, SyncKind::Full), (1, SyncKind::Data)] {
        let fsync = OpIn::default().long(5).word(flags).word(0).whole();
        expect(20, &fsync, b"", Op::Fsync, |r| {
            !r.may_wait() && matches!(r, Request::Fsync { file: FileId(5), kind: k } if *k == kind)
        });
    }
    let fallocate = OpIn::default().long(5).long(10).long(20).word(3).word(0).whole();
    expect(43, &fallocate, b"", Op::Fallocate, |r| {
        matches!(r, Request::Fallocate { file: FileId(5), offset: 10, bytes: 20, mode: 3 })
    });
    let lseek = OpIn::default().long(5).long(10).word(4).word(0).whole();
    expect(46, &lseek, b"", Op::Lseek, |r| {
        matches!(r, Request::Lseek { file: FileId(5), offset: 10, whence: 4 })
    });
    let copy = OpIn::default().long(5).long(10).long(99).long(6).long(20).long(30).long(0).whole();
    expect(47, &copy, b"", Op::CopyFileRange, |r| {
        let (source, target) = ((FileId(5), 10), (FileId(6), 20));
        matches!(r, Request::CopyFileRange { source: s, target: t, bytes: 30 }
            if (*s, *t) == (source, target))
    });
}

#[test]
fn directories() {
    expect(27, &nothing(), b"", Op::OpenDir, |r| matches!(r, Request::OpenDir));
    let read = OpIn::default().long(5).long(40).word(4096).word(0).long(0).word(0).word(0).whole();
    expect(28, &read, b"", Op::ReadDir, |r| {
        matches!(r, Request::ReadDir { dir: DirId(5), offset: 40, bytes: 4096 })
    });
    expect(44, &read, b"", Op::ReadDirPlus, |r| {
        matches!(r, Request::ReadDirPlus { dir: DirId(5), offset: 40, bytes: 4096 })
    });
    expect(29, &read, b"", Op::ReleaseDir, |r| matches!(r, Request::ReleaseDir { dir: DirId(5) }));
    expect(30, &read, b"", Op::FsyncDir, |r| matches!(r, Request::FsyncDir { dir: DirId(5) }));
}

/// The kernel does not send such; whatever comes must not be more than an error.
#[test]
fn what_makes_no_sense_is_an_error() {
    let error = |opcode, payload: &[u8]| decode(opcode, &[0xff; 128], payload).err();
    assert_eq!(error(1, b"no end"), Some(Errno::INVAL));
    assert_eq!(error(45, b"one\0two"), Some(Errno::INVAL));
    assert_eq!(error(16, b"short"), Some(Errno::INVAL));
    assert_eq!(error(21, b"name\0short"), Some(Errno::INVAL));
    // INIT, locks, ioctl, poll, TMPFILE, STATX, and what is not invented yet.
    for opcode in [0, 26, 31, 32, 33, 39, 40, 50, 51, 52, 53, 1000] {
        assert_eq!(error(opcode, b""), Some(Errno::NOSYS), "{opcode}");
    }
}
