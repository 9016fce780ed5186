//! The HTTP end that a Prometheus server scrapes. It runs on the worker's thread, beside the mirror, so it does little at a
//! time and keeps little: sixteen connections at most, a request each, of 16 KiB and five seconds. One connection more ends
//! the oldest, so that those that never come to an end do not keep a scrape from being answered.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{error, info};

use crate::messages;

/// Connections at a time.
const CONNECTIONS: usize = 16;
/// How long one may take, from when it is accepted to the last byte of the answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of a request line and its headers.
const REQUEST: usize = 16 * 1024;
/// Between attempts to listen.
const PAUSE: Duration = Duration::from_secs(2);

/// What is answered.
pub type Text = Arc<dyn Fn() -> prometheus::Result<String> + Send + Sync>;

/// Answers scrapes at an address with what `text` tells then, for as long as it is not dropped. An address that cannot be
/// had is tried again.
pub async fn serve(address: SocketAddr, text: Text) {
    let mut failing = false;
    loop {
        let error = match TcpListener::bind(address).await {
            Ok(listener) => {
                info!(target: messages::METRICS, "metrics are served at http://{address}/metrics");
                failing = false;
                accept(&listener, &text).await
            }
            Err(error) => error,
        };
        if !failing {
            error!(
                target: messages::METRICS_FAILED,
                "metrics cannot be served at http://{address}/metrics: {error}; tried again every {} s", PAUSE.as_secs()
            );
            failing = true;
        }
        sleep(PAUSE).await;
    }
}

/// Takes connections until that fails.
async fn accept(listener: &TcpListener, text: &Text) -> io::Error {
    let mut connections = JoinSet::new();
    let mut by_age = VecDeque::<AbortHandle>::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // The client went away before it was accepted (accept(2)).
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return error,
            },
            Some(ended) = connections.join_next() => {
                if ended.is_err_and(|error| error.is_panic()) {
                    error!(target: messages::BUG, "a scrape panicked");
                }
                by_age.retain(|connection| !connection.is_finished());
                continue;
            }
        };
        let is_full = connections.len() >= CONNECTIONS;
        if let Some(oldest) = is_full.then(|| by_age.pop_front()).flatten() {
            oldest.abort();
            // Gone before the next one begins.
            let _ = connections.join_next().await;
        }
        by_age.push_back(connections.spawn(converse(stream, Arc::clone(text))));
    }
}

/// One connection: a request and its answer.
async fn converse(stream: TcpStream, text: Text) {
    let service = service_fn(|request| {
        let response = answer(&request, &text);
        async { Ok::<_, Infallible>(response) }
    });
    let mut http = http1::Builder::new();
    // The deadline is for all of it.
    http.keep_alive(false).max_buf_size(REQUEST).header_read_timeout(None);
    // How it ends is the client's affair.
    let _ = timeout(DEADLINE, http.serve_connection(TokioIo::new(stream), service)).await;
}

fn answer(request: &Request<Incoming>, text: &Text) -> Response<String> {
    let plain = |status, body: &str| {
        let mut response = Response::new(body.to_owned());
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    };
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match text() {
        Ok(text) => {
            let mut response = plain(StatusCode::OK, &text);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(prometheus::TEXT_FORMAT));
            response
        }
        Err(error) => {
            error!(target: messages::BUG, "metrics cannot be told: {error}");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "see Kea's log\n")
        }
    }
}
