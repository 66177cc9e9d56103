//! The system calls of the front-end: named pipes, and Ctrl-C.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Error, Result};
use std::os::windows::io::{AsRawHandle, FromRawHandle};
use std::sync::OnceLock;

use windows_sys::Win32::Foundation::{ERROR_PIPE_CONNECTED, INVALID_HANDLE_VALUE};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_FIRST_PIPE_INSTANCE, FlushFileBuffers, PIPE_ACCESS_DUPLEX,
};
use windows_sys::Win32::System::Console::SetConsoleCtrlHandler;
use windows_sys::Win32::System::Pipes::{
    ConnectNamedPipe, CreateNamedPipeW, DisconnectNamedPipe, PIPE_READMODE_BYTE,
    PIPE_REJECT_REMOTE_CLIENTS, PIPE_TYPE_BYTE, PIPE_UNLIMITED_INSTANCES, PIPE_WAIT,
};

const BUFFER_BYTES: u32 = 4096;

/// The server's end of a named pipe, for one client. Its default security lets the user himself,
/// administrators and the system write; others may read, and get nothing without asking. Clients of
/// other machines are refused.
pub(crate) struct PipeEnd(File);

impl PipeEnd {
    /// Makes one; the `first` of a name claims it.
    pub(crate) fn make(name: &str, first: bool) -> Result<Self> {
        let name: Vec<u16> = name.encode_utf16().chain([0]).collect();
        let first = if first { FILE_FLAG_FIRST_PIPE_INSTANCE } else { 0 };
        // SAFETY: the name ends in a zero, and no attributes means the default.
        let handle = unsafe {
            CreateNamedPipeW(
                name.as_ptr(),
                PIPE_ACCESS_DUPLEX | first,
                PIPE_TYPE_BYTE | PIPE_READMODE_BYTE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS,
                PIPE_UNLIMITED_INSTANCES,
                BUFFER_BYTES,
                BUFFER_BYTES,
                0,
                std::ptr::null(),
            )
        };
        if handle == INVALID_HANDLE_VALUE {
            return Err(Error::last_os_error());
        }
        // SAFETY: a new handle that nobody else owns.
        Ok(Self(unsafe { File::from_raw_handle(handle) }))
    }

    /// Waits for a client.
    pub(crate) fn accept(&self) -> Result<()> {
        // SAFETY: an open pipe, without overlapped I/O.
        let connected = unsafe { ConnectNamedPipe(self.0.as_raw_handle(), std::ptr::null_mut()) };
        let error = Error::last_os_error();
        // One that came before we waited.
        let was = error.raw_os_error() == Some(ERROR_PIPE_CONNECTED.cast_signed());
        if connected != 0 || was { Ok(()) } else { Err(error) }
    }

    pub(crate) fn stream(&self) -> &File {
        &self.0
    }

    /// Waits until the client has read everything, and ends the connection.
    pub(crate) fn finish(self) {
        // SAFETY: an open pipe; both calls take nothing else.
        unsafe {
            FlushFileBuffers(self.0.as_raw_handle());
            DisconnectNamedPipe(self.0.as_raw_handle());
        }
    }
}

type Handler = Box<dyn Fn() + Send + Sync>;

static ON_END: OnceLock<Handler> = OnceLock::new();

/// Runs something on Ctrl-C, Ctrl-Break, when the console is closed, and at the end of the session.
/// It must not return before everything is durable: the process is ended then.
pub(crate) fn on_end(handler: Handler) -> Result<()> {
    unsafe extern "system" fn ended(_event: u32) -> windows_sys::core::BOOL {
        if let Some(handler) = ON_END.get() {
            handler();
        }
        1
    }
    if ON_END.set(handler).is_err() {
        return Err(Error::other("there is a handler already"));
    }
    // SAFETY: the handler is a plain function that lives for ever.
    if unsafe { SetConsoleCtrlHandler(Some(ended), 1) } == 0 {
        return Err(Error::last_os_error());
    }
    Ok(())
}
