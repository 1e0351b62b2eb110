//! Who the client is: a user with a password, for which the cluster gives tokens, or whatever headers a hook adds.
//!
//! A token is fetched by whoever needs one first, while the others that need one wait; nobody waits who has one. That one is not valid
//! any more shows when a request is refused for it. Such a request was not carried out, and is sent again with a new token.

use std::fmt;
use std::sync::Arc;

use http::HeaderValue;
use parking_lot::Mutex;
use tenure_proto::etcdserverpb::AuthenticateRequest;
use tenure_proto::etcdserverpb::auth_client::AuthClient;

use crate::error::{Error, Refusal};
use crate::transport::Link;

/// Adds headers to a request, given its path.
pub(crate) type MetadataHook = Arc<dyn Fn(&str, &mut http::HeaderMap) + Send + Sync>;

/// Who logs in.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: String,
}

/// Without the password.
impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("User").field(&self.name).finish()
    }
}

/// What a cluster gave for a password.
#[derive(Clone)]
pub(crate) struct Token {
    /// None if the cluster knows of no users.
    value: Option<HeaderValue>,
    /// Tells it from earlier ones.
    number: u64,
}

impl Token {
    pub(crate) fn value(&self) -> Option<HeaderValue> {
        self.value.clone()
    }
}

/// See the module's header.
pub(crate) struct Credentials {
    user: Option<User>,
    token: Mutex<Option<Token>>,
    /// Held while a token is fetched.
    fetching: tokio::sync::Mutex<u64>,
}

impl Credentials {
    pub(crate) fn new(user: Option<User>) -> Credentials {
        Credentials { user, token: Mutex::default(), fetching: tokio::sync::Mutex::new(0) }
    }

    /// Whether there is a user to log in as.
    pub(crate) fn has_user(&self) -> bool {
        self.user.is_some()
    }

    /// This one is not valid any more.
    pub(crate) fn forget(&self, token: &Token) {
        let mut current = self.token.lock();
        if current.as_ref().is_some_and(|current| current.number == token.number) {
            *current = None;
        }
    }

    /// The link with the token on it that its requests need. Fetches one over the link itself if there is none.
    pub(crate) async fn on(&self, link: Link) -> Result<Link, Error> {
        let Some(user) = &self.user else { return Ok(link) };
        if let Some(token) = self.current() {
            return Ok(link.with_token(Some(token)));
        }
        let mut fetched = self.fetching.lock().await;
        if let Some(token) = self.current() {
            return Ok(link.with_token(Some(token)));
        }
        *fetched += 1;
        let token = Token { value: fetch(user, link.clone()).await?, number: *fetched };
        *self.token.lock() = Some(token.clone());
        Ok(link.with_token(Some(token)))
    }

    fn current(&self) -> Option<Token> {
        self.token.lock().clone()
    }
}

async fn fetch(user: &User, link: Link) -> Result<Option<HeaderValue>, Error> {
    let request = AuthenticateRequest { name: user.name.clone(), password: user.password.clone() };
    match AuthClient::new(link.clone()).authenticate(request).await {
        Ok(answer) => {
            let mut value = HeaderValue::from_str(&answer.into_inner().token)
                .map_err(|_| Error::nonsense(link.address(), "a token that fits no header"))?;
            value.set_sensitive(true);
            Ok(Some(value))
        }
        Err(status) => {
            link.report(Err(&status));
            // To log in twice does no harm.
            match Error::from_status(&link, false, &status) {
                error if error.refusal() == Some(Refusal::AuthNotEnabled) => Ok(None),
                error => Err(error),
            }
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}
