//! Which etcd member is in use, whether it takes our writes, and when the next attempt is. A line is logged when this
//! changes, not for each attempt.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::connection::Member;
use crate::messages;

/// The shortest and the longest pause between attempts when no member answers; jitter makes each up to twice as long. After
/// an outage everything waits for the last one to end, while some attempts each second cost nobody anything.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_millis(250);
/// The longest one of a user. Each new connection has etcd check the password, which is made to be slow: of an etcd that is too
/// busy to answer, a hundred servers ask no more than they must.
const LONGEST_OF_USER: Duration = Duration::from_secs(1);

/// How many times longer they are when etcd does not take user and password.
const AUTHENTICATION: u32 = 8;
/// So much longer they are where an operator has to act.
const OPERATOR: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No session yet, or the member in use failed and another is being tried.
    Trying,
    /// A session is open on the member.
    Up,
    /// No member answers, or none takes our writes; the message says which.
    Down(&'static str),
}

/// See the module.
pub struct Link<'a> {
    endpoints: &'a [String],
    /// The longest pause.
    longest: Duration,
    state: State,
    /// The member in use: its place in `endpoints` is `choice` modulo their number.
    choice: u64,
    member: Option<Member>,
    failed_members: usize,
    pauses: ExponentialBackoff,
    retry_at: Option<Instant>,
}

impl<'a> Link<'a> {
    /// No connection yet; whether connections are made with a password.
    pub fn new(endpoints: &'a [String], has_user: bool) -> Self {
        let longest = if has_user { LONGEST_OF_USER } else { LONGEST };
        Self {
            endpoints,
            longest,
            state: State::Trying,
            choice: 0,
            member: None,
            failed_members: 0,
            pauses: pauses(longest),
            retry_at: None,
        }
    }

    /// Whether a session is open and requests may be sent now.
    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// For `etcd-status`.
    pub fn describe(&self) -> &'static str {
        match self.state {
            State::Trying => "connecting",
            State::Up => "up",
            State::Down(messages::NO_SPACE) => "no space",
            State::Down(messages::DENIED) => "denied",
            State::Down(messages::NOT_AUTHENTICATED) => "not authenticated",
            State::Down(messages::BAD_FILE) => "bad file",
            State::Down(messages::TLS_FAILED) => "no TLS",
            State::Down(_) => "down",
        }
    }

    /// The endpoint of the member in use.
    pub fn endpoint(&self) -> &'a str {
        &self.endpoints[usize::try_from(self.choice).unwrap_or(0) % self.endpoints.len()]
    }

    /// Which choice of a member requests are sent under now.
    pub fn choice(&self) -> u64 {
        self.choice
    }

    /// The connection, if there is one.
    pub fn member(&self) -> Option<Member> {
        self.member.clone()
    }

    /// The connection answered.
    pub fn answered(&mut self, choice: u64, member: Member) {
        if choice == self.choice {
            self.member = Some(member);
        }
    }

    /// etcd does what it is asked for. Only then the pauses begin anew: what fails each time after a session began must
    /// not be tried in a hurry for ever.
    pub fn worked(&mut self) {
        self.pauses = pauses(self.longest);
        self.failed_members = 0;
    }

    /// A session is open; `waiting` addresses are to be written.
    pub fn came_up(&mut self, waiting: usize) {
        info!(target: messages::CONNECTED, "etcd member {} answers, {waiting} addresses wait", self.endpoint());
        self.state = State::Up;
    }

    /// The session is gone though the member answers.
    pub fn session_lost(&mut self) {
        self.state = State::Trying;
    }

    /// The connection is not used any more; the next one is to the same member.
    pub fn renew(&mut self) {
        // Another choice, so that what is under way does not bring the old one back.
        self.choice += u64::try_from(self.endpoints.len()).unwrap_or(1);
        self.member = None;
        if self.state == State::Up {
            self.state = State::Trying;
        }
    }

    /// The member did not answer, or (`message` says so) TLS failed: another one is next, after a pause when every one
    /// failed.
    pub fn leave(&mut self, message: &'static str, reason: &str) {
        let endpoint = self.endpoint();
        self.choice += 1;
        self.member = None;
        self.failed_members += 1;
        if self.failed_members < self.endpoints.len() {
            if self.state == State::Up {
                warn!(target: messages::MEMBER_FAILED, "etcd member {endpoint} failed ({reason}), the next is tried");
                self.state = State::Trying;
            }
            return;
        }
        self.failed_members = 0;
        if self.state != State::Down(message) {
            if message == messages::TLS_FAILED {
                error!(target: messages::TLS_FAILED, "no TLS connection to any etcd member, the last was {reason}");
            } else {
                warn!(target: messages::UNREACHABLE, "no etcd member answers (last was {endpoint}: {reason}); changes are kept and tried again");
            }
        }
        self.state = State::Down(message);
        self.pause();
    }

    /// No connection can be made, or none that etcd takes requests over, until an operator mends something.
    pub fn refuse(&mut self, message: &'static str, reason: &str) {
        let endpoint = self.endpoint();
        if self.state != State::Down(message) {
            if message == messages::BAD_FILE {
                error!(target: messages::BAD_FILE, "{reason}");
            } else {
                error!(target: messages::NOT_AUTHENTICATED, "{endpoint}: {reason}");
            }
        }
        self.renew();
        self.state = State::Down(message);
        // Every attempt to authenticate costs etcd as much as it costs to guess a password.
        let longer = if message == messages::NOT_AUTHENTICATED { AUTHENTICATION } else { 1 };
        let pause = self.next_pause();
        self.pause_for(longer * pause);
    }

    /// etcd answers but takes no writes below `prefix`: everything waits for an operator.
    pub fn hold(&mut self, message: &'static str, prefix: &str, reason: &str) {
        if self.state != State::Down(message) {
            if message == messages::NO_SPACE {
                error!(target: messages::NO_SPACE, "etcd takes no writes: {reason}");
            } else {
                error!(target: messages::DENIED, "etcd denies access to {prefix}: {reason}");
            }
        }
        self.state = State::Down(message);
        let pause = self.next_pause();
        self.pause_for(OPERATOR + pause);
    }

    /// Nothing is sent for a while, longer each time until something is answered.
    pub fn pause(&mut self) {
        let pause = self.next_pause();
        self.pause_for(pause);
    }

    fn next_pause(&mut self) -> Duration {
        self.pauses.next().unwrap_or(self.longest)
    }

    /// When the pause ends, if there is one.
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// The pause is over.
    pub fn retry(&mut self) {
        self.retry_at = None;
    }

    /// Every member is tried once more, now.
    pub fn last_try(&mut self) {
        self.retry_at = None;
        self.failed_members = 0;
        if self.is_down() {
            self.state = State::Trying;
        }
    }

    /// Nothing is sent for so long.
    pub fn pause_for(&mut self, time: Duration) {
        self.retry_at = Some(Instant::now() + time);
    }

    /// Whether nothing works now.
    pub fn is_down(&self) -> bool {
        matches!(self.state, State::Down(_))
    }
}

/// Pauses between attempts: each about twice the one before up to the longest, with jitter.
fn pauses(longest: Duration) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(SHORTEST)
        .with_max_delay(longest)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_long_an_outage_is_twice_in_a_second_is_tried() {
        let longest = pauses(LONGEST).take(100).max().unwrap();
        assert!((LONGEST..=Duration::from_millis(500)).contains(&longest), "{longest:?}");
    }
}
