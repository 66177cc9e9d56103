//! The engines' side: Docker's volume plugin protocol, version 1, as Docker and Podman speak it.
//!
//! POST, JSON, over a Unix socket. Docker sends neither Content-Type nor a Host, Podman an
//! empty body where there is nothing to say: so the body is read as bytes whatever it is called,
//! and an empty one means `{}`. Docker reads `Err`, Podman the status code: both are given.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};

use super::driver::Driver;
use crate::failure::Failure;

const MEDIA_TYPE: HeaderValue =
    HeaderValue::from_static("application/vnd.docker.plugins.v1.2+json");
/// Longest body of a request in bytes.
const BODY_BYTES_MAX: usize = 1 << 20;
/// How long calls that are under way may take when the plugin ends.
const LAST_CALLS_MAX: Duration = Duration::from_secs(10);

/// What a call may say; each call looks at what it needs.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Call {
    name: String,
    #[serde(rename = "ID")]
    id: String,
    opts: Option<BTreeMap<String, String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Volume {
    name: String,
    mountpoint: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Value>,
}

/// Answers engines until `end` is ready; calls that are under way are answered still.
///
/// # Errors
/// The socket cannot be listened at.
pub async fn serve(
    listener: UnixListener,
    driver: Arc<Driver>,
    end: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let mut end = std::pin::pin!(end);
    let calls = Arc::new(AtomicUsize::new(0));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut end => break,
        };
        // One that has gone already, or no descriptor left for it: there will be others.
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        connections.spawn(serve_connection(stream, Arc::clone(&driver), Arc::clone(&calls)));
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    // Engines keep idle connections open: only calls are waited for.
    let last = tokio::time::Instant::now() + LAST_CALLS_MAX;
    while calls.load(Ordering::Acquire) > 0 && tokio::time::Instant::now() < last {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn serve_connection(stream: UnixStream, driver: Arc<Driver>, calls: Arc<AtomicUsize>) {
    let service = service_fn(|request| async {
        calls.fetch_add(1, Ordering::AcqRel);
        let answered = answer(request, &driver).await;
        calls.fetch_sub(1, Ordering::AcqRel);
        answered
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
    // Podman closes before it has read the answer.
    if let Err(error) = connection {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn answer(
    request: Request<Incoming>,
    driver: &Arc<Driver>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await;
    let (status, value) = match body {
        Ok(body) => {
            let (driver, body) = (Arc::clone(driver), body.to_bytes());
            // Mounting waits for disks: not on the thread that all connections share.
            let called = tokio::task::spawn_blocking(move || call(&driver, &path, &body)).await;
            called
                .unwrap_or_else(|_| failed("the call failed inside; the plugin's messages say why"))
        }
        Err(error) => failed(&format!("the request cannot be read: {error}")),
    };
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, MEDIA_TYPE);
    Ok(response)
}

fn failed(message: &str) -> (StatusCode, Value) {
    (StatusCode::INTERNAL_SERVER_ERROR, json!({ "Err": message }))
}

/// One call; what it returns is what the engine gets.
fn call(driver: &Driver, path: &str, body: &[u8]) -> (StatusCode, Value) {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    let call: Call = match serde_json::from_slice(body) {
        Ok(call) => call,
        Err(error) => return failed(&format!("the request is no JSON that makes sense: {error}")),
    };
    tracing::debug!(path, name = call.name, id = call.id, "call");
    let done = |result: Result<(), Failure>| result.map(|()| json!({ "Err": "" }));
    let place = |result: Result<PathBuf, Failure>| {
        result.map(|place| json!({ "Mountpoint": place, "Err": "" }))
    };
    let result = match path {
        "/Plugin.Activate" => Ok(json!({ "Implements": ["VolumeDriver"] })),
        "/VolumeDriver.Capabilities" => Ok(json!({ "Capabilities": { "Scope": "local" } })),
        "/VolumeDriver.Create" => done(driver.create(&call.name, &call.opts.unwrap_or_default())),
        "/VolumeDriver.Remove" => done(driver.remove(&call.name)),
        "/VolumeDriver.Mount" => place(driver.mount(&call.name, &call.id)),
        "/VolumeDriver.Unmount" => done(driver.unmount(&call.name, &call.id)),
        "/VolumeDriver.Path" => place(driver.path(&call.name)),
        "/VolumeDriver.Get" => get(driver, &call.name),
        "/VolumeDriver.List" => Ok(list(driver)),
        _ => {
            let message = format!("no such call: {path}");
            return (StatusCode::NOT_FOUND, json!({ "Err": message }));
        }
    };
    match result {
        Ok(value) => (StatusCode::OK, value),
        Err(failure) => {
            // Engines ask for volumes that are not there before they make them.
            if path != "/VolumeDriver.Get" {
                tracing::warn!(path, name = call.name, "{failure}");
            }
            failed(&failure.message)
        }
    }
}

fn get(driver: &Driver, name: &str) -> Result<Value, Failure> {
    let described = driver.get(name)?;
    let created = UNIX_EPOCH + Duration::from_secs(described.created_unix_s);
    let volume = Volume {
        name: described.name,
        mountpoint: described.mount_point,
        created_at: Some(humantime::format_rfc3339_seconds(created).to_string()),
        status: Some(described.status),
    };
    Ok(json!({ "Volume": volume, "Err": "" }))
}

fn list(driver: &Driver) -> Value {
    let volume = |(name, mountpoint)| Volume { name, mountpoint, created_at: None, status: None };
    let volumes: Vec<Volume> = driver.list().into_iter().map(volume).collect();
    json!({ "Volumes": volumes, "Err": "" })
}
