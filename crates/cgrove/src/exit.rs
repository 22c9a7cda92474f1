//! Exit codes, after sysexits(3).

use cgrove_cgroupfs::Fault;
use cgrove_cgroupfs::lock::LockError;

use crate::engine::EngineError;
use cgrove_config::ConfigError;
use cgrove_state::StateError;

pub(crate) const CHANGES: u8 = 2;
pub(crate) const USAGE: u8 = 64;

/// Why the program ends with something other than 0.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) code: u8,
    /// For standard error; nothing is printed when empty.
    pub(crate) message: String,
}

impl Exit {
    fn new(code: u8, message: String) -> Self {
        Self { code, message }
    }
    pub(crate) fn usage(message: String) -> Self {
        Self::new(USAGE, message)
    }
    pub(crate) fn document(message: String) -> Self {
        Self::new(65, message)
    }
    pub(crate) fn no_input(message: String) -> Self {
        Self::new(66, message)
    }
    pub(crate) fn unavailable(message: String) -> Self {
        Self::new(69, message)
    }
    pub(crate) fn software(message: String) -> Self {
        Self::new(70, message)
    }
    pub(crate) fn config(message: String) -> Self {
        Self::new(78, message)
    }
    pub(crate) fn permission(message: String) -> Self {
        Self::new(77, message)
    }
    pub(crate) fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
}

impl From<ConfigError> for Exit {
    fn from(e: ConfigError) -> Self {
        Self::new(78, e.to_string())
    }
}

impl From<Fault> for Exit {
    fn from(fault: Fault) -> Self {
        let denied = matches!(fault.errno.as_str(), "EACCES" | "EPERM" | "EROFS");
        Self::new(if denied { 77 } else { 69 }, fault.to_string())
    }
}

impl From<StateError> for Exit {
    fn from(e: StateError) -> Self {
        let code = match e {
            StateError::Taken { .. } => 69,
            StateError::Unsafe { .. } | StateError::Damaged { .. } => 78,
            StateError::Io { .. } => 77,
        };
        Self::new(code, e.to_string())
    }
}

impl From<EngineError> for Exit {
    fn from(e: EngineError) -> Self {
        match e {
            EngineError::Fault(fault) | EngineError::Lock(LockError::Fault(fault)) => fault.into(),
            EngineError::Lock(e @ LockError::Taken { .. }) => Self::unavailable(e.to_string()),
        }
    }
}
