//! Exit codes, after sysexits(3).

use cgrove_cgroupfs::Fault;
use cgrove_cgroupfs::lock::LockError;

use tokio::task::JoinError;

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
    /// A task that panicked.
    pub(crate) fn bug(what: &str, error: JoinError) -> Self {
        let text = match error.try_into_panic() {
            Ok(panic) => match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
                (Some(text), _) => (*text).to_owned(),
                (None, Some(text)) => text.clone(),
                (None, None) => "it panicked".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        Self::software(format!("a bug ended {what}: {text}; please report it with the lines before"))
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
            StateError::Io { .. } | StateError::Replaced { .. } => 77,
        };
        Self::new(code, e.to_string())
    }
}

impl From<EngineError> for Exit {
    fn from(e: EngineError) -> Self {
        match e {
            EngineError::Fault(fault) | EngineError::Lock(LockError::Fault(fault)) => fault.into(),
            EngineError::Lost => Self::software(format!("{e}; please report it with the lines before")),
            EngineError::Lock(e @ LockError::Taken { .. }) => Self::unavailable(e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bug_is_70_with_its_text() {
        for exit in [
            Exit::bug("the reconciler", tokio::spawn(async { panic!("a bug") }).await.map(|()| 0).unwrap_err()),
            Exit::bug("a task", tokio::spawn(async { panic!("{} bug", "a") }).await.map(|()| 0).unwrap_err()),
            Exit::from(EngineError::Lost),
        ] {
            assert!(exit.code == 70 && exit.message.contains("a bug") && exit.message.contains("report"), "{exit:?}");
        }
    }
}
