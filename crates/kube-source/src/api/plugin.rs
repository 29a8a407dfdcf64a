//! Exec credential plugins: programs chosen by the operator that print a token or a certificate.
//!
//! A plugin delays nothing else, and is killed if it takes too long. Its output may contain credentials, so
//! no error repeats it.

use std::{
    io,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use jiff::Timestamp;
use kube::config::{AuthInfo, ExecConfig, ExecInteractiveMode};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    task::spawn_blocking,
    time::timeout,
};
use tracing::debug;

/// Length up to which the output is read.
const MAX_OUTPUT_BYTES: u64 = 1 << 20;
/// Time before their expiry at which credentials are renewed.
const RENEWAL_MARGIN: Duration = Duration::from_secs(60);

/// Failure of a plugin, so that there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The kubeconfig names no program.
    #[error("users[].user.exec: there is no command")]
    NoCommand,
    /// The plugin needs a terminal.
    #[error(
        "users[].user.exec: {command} needs a terminal (interactiveMode: Always), and there is none; use a plugin that needs none, or a token"
    )]
    Interactive {
        /// Program in the kubeconfig.
        command: String,
    },
    /// The plugin did not start.
    #[error("start the credential plugin {command} (users[].user.exec)")]
    Start {
        /// Program in the kubeconfig.
        command: String,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The plugin ended with an error.
    #[error(
        "the credential plugin {command} failed with {status}; log level debug also logs its standard error"
    )]
    Failed {
        /// Program in the kubeconfig.
        command: String,
        /// Exit code or signal.
        status: ExitStatus,
    },
    /// The plugin did not end in time.
    #[error("the credential plugin {command} was killed because it had not ended after {limit:?}")]
    Late {
        /// Program in the kubeconfig.
        command: String,
        /// Time that it had.
        limit: Duration,
    },
    /// The plugin printed something else than credentials.
    #[error("the credential plugin {command} printed no ExecCredential with a token or certificate and key")]
    Unreadable {
        /// Program in the kubeconfig.
        command: String,
    },
}

/// Credentials that a plugin printed.
#[derive(Clone, Default)]
pub(super) struct Credential {
    token: Option<String>,
    /// Certificate and key, in PEM.
    certificate: Option<(String, String)>,
    expires: Option<Timestamp>,
}

#[derive(Deserialize)]
struct ExecCredential {
    status: Option<ExecCredentialStatus>,
}

/// `ExecCredentialStatus` in staging/src/k8s.io/client-go/pkg/apis/clientauthentication/v1/types.go
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecCredentialStatus {
    expiration_timestamp: Option<String>,
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

impl Credential {
    fn parse(output: &[u8]) -> Option<Self> {
        let status = serde_saphyr::from_slice::<ExecCredential>(output).ok()?.status?;
        let expires = match status.expiration_timestamp {
            Some(text) => Some(text.parse().ok()?),
            None => None,
        };
        let token = status.token.filter(|token| !token.is_empty());
        let certificate = status.client_certificate_data.zip(status.client_key_data);
        let certificate = certificate.filter(|(certificate, key)| !certificate.is_empty() && !key.is_empty());
        (token.is_some() || certificate.is_some()).then_some(Credential { token, certificate, expires })
    }

    /// Time until the credential should be renewed; `None` if it never expires.
    pub(super) fn validity(&self) -> Option<Duration> {
        let left = self.expires?.duration_since(Timestamp::now());
        Some(Duration::try_from(left).unwrap_or_default().saturating_sub(RENEWAL_MARGIN))
    }

    /// Fills in the fields that a kubeconfig without a plugin would have.
    pub(super) fn fill_in(&self, user: &mut AuthInfo) {
        let base64 = |pem: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem);
        let (certificate, key) = self.certificate.clone().unzip();
        let filled = json!({
            "token": self.token,
            "client-certificate-data": certificate.as_deref().map(base64),
            "client-key-data": key.as_deref().map(base64),
        });
        let Ok(filled) = serde_json::from_value::<AuthInfo>(filled) else { return };
        user.token = filled.token;
        if filled.client_certificate_data.is_some() {
            user.client_certificate_data = filled.client_certificate_data;
            user.client_key_data = filled.client_key_data;
        }
    }
}

/// Runs the plugin and reads the credentials that it prints.
pub(super) async fn run(config: &ExecConfig, limit: Duration) -> Result<Credential, PluginError> {
    let command = config.command.clone().ok_or(PluginError::NoCommand)?;
    if config.interactive_mode == Some(ExecInteractiveMode::Always) {
        return Err(PluginError::Interactive { command });
    }
    let start = |source| PluginError::Start { command: command.clone(), source };
    let mut prepared = prepare(config, &command);
    // On another thread, because the file system of the program may hang.
    let started = timeout(limit, spawn_blocking(move || prepared.spawn())).await;
    // The wait, the thread and the start of the program can fail, in this order.
    let late = || PluginError::Late { command: command.clone(), limit };
    let mut child =
        started.map_err(|_elapsed| late())?.map_err(|error| start(error.into()))?.map_err(start)?;
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let ended = timeout(limit, output(&mut child)).await;
    if ended.is_err() {
        // The whole group: children of the plugin could keep holding locks and connections.
        let _gone = group.map(|group| kill_process_group(group, Signal::KILL));
    }
    let (status, stdout, stderr) = ended.map_err(|_elapsed| late())?.map_err(start)?;
    debug!("the credential plugin {command} printed to stderr: {}", String::from_utf8_lossy(&stderr));
    if !status.success() {
        return Err(PluginError::Failed { command, status });
    }
    Credential::parse(&stdout).ok_or(PluginError::Unreadable { command })
}

fn prepare(config: &ExecConfig, program: &str) -> Command {
    let mut command = Command::new(program);
    command.args(config.args.iter().flatten());
    for variable in config.env.iter().flatten() {
        if let (Some(name), Some(value)) = (variable.get("name"), variable.get("value")) {
            command.env(name, value);
        }
    }
    let cluster = config.cluster.as_ref().filter(|_| config.provide_cluster_info);
    let info = json!({
        "apiVersion": config.api_version,
        "kind": "ExecCredential",
        "spec": {"interactive": false, "cluster": cluster},
    });
    command.env("KUBERNETES_EXEC_INFO", info.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    command
}

async fn output(child: &mut Child) -> io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    tokio::try_join!(child.wait(), read(stdout), read(stderr))
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_plugins_print() {
        let read = |status: &str| {
            let output = format!(r#"{{"apiVersion":"client.authentication.k8s.io/v1","status":{status}}}"#);
            let credential = Credential::parse(output.as_bytes())?;
            let expires = credential.expires.map(|at| at.as_second());
            Some((credential.token, credential.certificate.map(|(certificate, _)| certificate), expires))
        };
        assert_eq!(read(r#"{"token":"t"}"#), Some((Some("t".into()), None, None)));
        assert_eq!(
            read(r#"{"token":"t","expirationTimestamp":"1970-01-01T00:01:00Z"}"#),
            Some((Some("t".into()), None, Some(60)))
        );
        let pair = r#"{"clientCertificateData":"c","clientKeyData":"k","token":null}"#;
        assert_eq!(read(pair), Some((None, Some("c".into()), None)));
        for wrong in [
            r#"{"token":""}"#,
            r#"{"clientKeyData":"k"}"#,
            r#"{"token":"t","expirationTimestamp":"soon"}"#,
            "{}",
            "null",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert!(Credential::parse(b"status:\n  token: yaml\n").is_some(), "client-go takes YAML, too");
        assert!(Credential::parse(b"SECRET").is_none());
    }
}
