//! Media type of objects from the API server.

use kube_source::MediaType;

use crate::invocation::Invocation;

/// Media type to ask for: the first known one of `acceptContentTypes`, or without that of `contentType`, as in
/// `NewRequest` of client-go (rest/request.go). An unknown one is no error, because a server sends what it can:
/// kube-proxy starts with anything here. Nothing is ever sent in protobuf.
pub(super) fn of(invocation: &Invocation) -> MediaType {
    let connection = &invocation.config.proxy.client_connection;
    let given = [&connection.accept_content_types, &invocation.cli.flags.kube_api_content_type];
    let Some(given) = given.into_iter().find(|given| !given.trim().is_empty()) else {
        return MediaType::default();
    };
    given.split(',').find_map(media_type).unwrap_or(MediaType::Json)
}

/// Media type that a part of such a list asks for; a server has JSON for any type.
fn media_type(part: &str) -> Option<MediaType> {
    let name = part.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let has_json = matches!(&*name, "application/cbor" | "application/*" | "*/*");
    MediaType::parse(part).or(has_json.then_some(MediaType::Json))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Settings, invocation::testing};

    #[test]
    fn media_types() {
        for (fields, expect) in [
            ("", MediaType::Protobuf),
            ("contentType: ''", MediaType::Protobuf),
            ("contentType: application/vnd.kubernetes.protobuf", MediaType::Protobuf),
            ("contentType: application/vnd.kubernetes.protobuf,application/json", MediaType::Protobuf),
            ("contentType: 'Application/JSON; charset=utf-8'", MediaType::Json),
            ("contentType: application/json", MediaType::Json),
            ("contentType: application/cbor", MediaType::Json),
            ("contentType: application/yaml", MediaType::Json),
            ("acceptContentTypes: application/json", MediaType::Json),
            ("acceptContentTypes: '*/*'", MediaType::Json),
            ("acceptContentTypes: ' ', contentType: application/json", MediaType::Json),
            (
                "acceptContentTypes: application/vnd.kubernetes.protobuf, contentType: nonsense",
                MediaType::Protobuf,
            ),
            ("acceptContentTypes: 'text/html, application/vnd.kubernetes.protobuf;q=1'", MediaType::Protobuf),
        ] {
            let text = format!(
                "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                 hostnameOverride: n1\nclientConnection: {{{fields}}}\n"
            );
            let settings = Settings::new(&testing::with_file(&["--config=/c"], &text).unwrap());
            assert_eq!(settings.unwrap().media, expect, "{fields}");
        }
        let settings = Settings::new(&testing::invocation(&["--kube-api-content-type=application/json"]));
        assert_eq!(settings.unwrap().media, MediaType::Json);
    }
}
