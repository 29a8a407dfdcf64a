//! Media type of objects from the API server.

use kube_source::MediaType;

use super::Check;
use crate::invocation::Invocation;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const JSON: &str = "application/json";

/// Media type to ask for: what `acceptContentTypes` names first, else `contentType`, as in `NewRequest` of client-go
/// (rest/request.go). Nothing is ever sent in protobuf.
pub(super) fn of(invocation: &Invocation, check: &mut Check<'_>) -> MediaType {
    let content_type = &invocation.cli.flags.kube_api_content_type;
    let named = match content_type.trim() {
        "" => Ok(MediaType::Protobuf),
        name => media_type(name).ok_or_else(|| unknown(name)),
    };
    let named = check.take("kube-api-content-type", named);
    let accepted = &invocation.config.proxy.client_connection.accept_content_types;
    let mut names = accepted.split(',').map(str::trim).filter(|name| !name.is_empty()).peekable();
    if names.peek().is_none() {
        return named;
    }
    names.find_map(media_type).unwrap_or_else(|| {
        check.errors.push(format!("clientConnection.acceptContentTypes: {}", unknown(accepted)));
        named
    })
}

/// Media type of this name, whatever its parameters; a server has JSON for any type.
fn media_type(name: &str) -> Option<MediaType> {
    match name.split(';').next().unwrap_or_default().trim() {
        PROTOBUF => Some(MediaType::Protobuf),
        JSON | "application/*" | "*/*" => Some(MediaType::Json),
        _ => None,
    }
}

fn unknown(value: &str) -> String {
    format!("{value:?} is not supported: write {PROTOBUF} or {JSON}, or leave it out")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Settings, invocation::testing};

    #[test]
    fn media_types() {
        let remedy = "write application/vnd.kubernetes.protobuf or application/json, or leave it out";
        for (fields, expect) in [
            ("", Ok(MediaType::Protobuf)),
            ("contentType: ''", Ok(MediaType::Protobuf)),
            ("contentType: application/vnd.kubernetes.protobuf", Ok(MediaType::Protobuf)),
            ("contentType: application/json", Ok(MediaType::Json)),
            ("acceptContentTypes: application/json", Ok(MediaType::Json)),
            ("acceptContentTypes: '*/*'", Ok(MediaType::Json)),
            (
                "acceptContentTypes: 'application/cbor, application/vnd.kubernetes.protobuf;q=1,application/json'",
                Ok(MediaType::Protobuf),
            ),
            (
                "contentType: application/yaml",
                Err(format!("clientConnection.contentType: \"application/yaml\" is not supported: {remedy}")),
            ),
            (
                "acceptContentTypes: text/html",
                Err(format!("clientConnection.acceptContentTypes: \"text/html\" is not supported: {remedy}")),
            ),
        ] {
            let text = format!(
                "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                 hostnameOverride: n1\nclientConnection: {{{fields}}}\n"
            );
            let settings = Settings::new(&testing::with_file(&["--config=/c"], &text).unwrap());
            let found = settings.map(|settings| settings.media).map_err(|errors| errors.0);
            assert_eq!(found, expect.map_err(|error| vec![error]), "{fields}");
        }
        let settings = Settings::new(&testing::invocation(&["--kube-api-content-type=application/json"]));
        assert_eq!(settings.unwrap().media, MediaType::Json);
    }
}
