//! Why the client came back with nothing: one sentence per gateway that was asked.
//!
//! Statuses and the gateway's own words are kept apart, so that a program can decide whether asking again may
//! help. Answers' bodies are never quoted whole.

use shifter_munge::MungeError;

use super::MAX_ANSWER;

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The configuration names none.
    #[error("no image gateway is configured; set imageGateway in udiRoot.conf")]
    NoGateway,
    /// A gateway's address is unusable.
    #[error("the image gateway address {url:?} cannot be used: {cause}")]
    BadGateway {
        /// As configured.
        url: String,
        /// What is wrong with it.
        cause: &'static str,
    },
    /// No certificate authorities for an `https` gateway.
    #[error("cannot load the certificate authorities for the https image gateway from {path}: {cause}")]
    Authorities {
        /// The file, or the places looked at.
        path: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The request could not be signed.
    #[error(transparent)]
    Munge(#[from] MungeError),
    /// Every gateway was asked in vain.
    #[error("cannot {operation}: {}", join(.attempts))]
    Failed {
        /// What was to be done, as a verb phrase.
        operation: String,
        /// One entry per gateway, in the order asked.
        attempts: Vec<Attempt>,
    },
}

impl ClientError {
    /// Whether asking again later may help: munged or the gateways could not be reached or had an inner error,
    /// and none gave a definite refusal.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        let attempts = match self {
            ClientError::Failed { attempts, .. } => attempts,
            ClientError::Munge(error) => return matches!(error, MungeError::Unavailable { .. }),
            _ => return false,
        };
        attempts.iter().all(|attempt| match attempt.cause {
            AttemptError::Unreachable(_) | AttemptError::TimedOut => true,
            AttemptError::Refused { status, .. } => status >= 500,
            AttemptError::TooLarge | AttemptError::Unreadable(_) => false,
        })
    }
}

impl ClientError {
    /// The HTTP status of every gateway, if each of them answered.
    #[must_use]
    pub fn statuses(&self) -> Option<Vec<u16>> {
        let ClientError::Failed { attempts, .. } = self else { return None };
        let status = |attempt: &Attempt| match attempt.cause {
            AttemptError::Refused { status, .. } => Some(status),
            _ => None,
        };
        attempts.iter().map(status).collect()
    }

    /// Whether a gateway refused the caller: it does not believe the credential, or the caller may not.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.statuses().is_some_and(|statuses| statuses.iter().any(|status| matches!(status, 401 | 403)))
    }
}

/// What one gateway did.
#[derive(Debug, thiserror::Error)]
#[error("the image gateway {gateway} {cause}")]
pub struct Attempt {
    /// Its base URL.
    pub gateway: String,
    /// Why it was no use.
    pub cause: AttemptError,
}

/// Why one gateway was no use; reads on from "the image gateway URL".
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// No connection, or it broke.
    #[error("could not be reached: {0}")]
    Unreachable(String),
    /// The time for one request ran out.
    #[error("did not answer in time (gatewayTimeout)")]
    TimedOut,
    /// It answered something other than 200.
    #[error("answered {status}: {reason}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The gateway's own words, or the status's name.
        reason: String,
    },
    /// The answer is above [`MAX_ANSWER`].
    #[error("sent more than {MAX_ANSWER} bytes")]
    TooLarge,
    /// The answer is 200, but not what was asked for.
    #[error("sent an answer that is not understood: {0}")]
    Unreadable(String),
}

fn join(attempts: &[Attempt]) -> String {
    attempts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
