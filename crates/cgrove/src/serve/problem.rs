//! Why a question has no answer.

use hyper::StatusCode;

/// Why there is no answer. HTTP says it by the status, too.
#[derive(Debug)]
pub(super) enum Problem {
    /// The question is wrong.
    Asked(String),
    /// This client may not ask it.
    Forbidden(String),
    /// There is no such thing.
    Unknown(String),
    /// Not now.
    Away(String),
}

impl Problem {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Asked(_) => StatusCode::BAD_REQUEST,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::Unknown(_) => StatusCode::NOT_FOUND,
            Self::Away(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(super) fn text(&self) -> &str {
        let (Self::Asked(text) | Self::Forbidden(text) | Self::Unknown(text) | Self::Away(text)) = self;
        text
    }
}
