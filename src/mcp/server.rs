//! One message in, one answer out.

use super::envelope::{self, Message};
use super::era::{self, ALL, Era};
use super::headers::Headers;
use super::origin::AllowedOrigins;
use super::reply::{Reply, RpcError};
use super::tools::Feeds;
use super::{legacy, modern};
use serde_json::Map;

/// Answers the body of a POST, any JSON text.
pub fn post(json: &str, headers: &Headers, allowed: &AllowedOrigins, feeds: &impl Feeds) -> Reply {
    if headers.origin.as_deref().is_some_and(|origin| !allowed.allow(origin)) {
        return Reply::error(
            403,
            None,
            RpcError::invalid_request("Requests from this origin are not allowed"),
        );
    }
    match envelope::parse(json) {
        Err(refused) => refused,
        Ok(Message::Notification) => match &headers.version {
            Some(version) if !ALL.contains(&version.as_str()) => {
                Reply::error(400, None, RpcError::unsupported_version(&ALL, version))
            }
            _ => Reply::accepted(),
        },
        Ok(Message::Response) => match era::of(headers, &Map::new()) {
            Era::Legacy => Reply::accepted(),
            Era::Modern => Reply::error(
                400,
                None,
                RpcError::invalid_request("The message must be a request or a notification"),
            ),
        },
        Ok(Message::Request(request)) => match era::of(headers, &request.params) {
            Era::Legacy => legacy::answer(&request, feeds),
            Era::Modern => modern::answer(&request, headers, feeds),
        },
    }
}

/// Answers a request without a body that could be a message: GET and HEAD, or a POST of nothing, which PostgREST
/// brings here too.
pub fn without_message(http_method: &str) -> Reply {
    match http_method {
        "GET" | "HEAD" => Reply::post_only(),
        _ => Reply::error(
            400,
            None,
            RpcError::invalid_request("The message must be a JSON object that is not empty"),
        ),
    }
}
