//! Command lines and files of the two programs.

use std::{net::SocketAddr, path::PathBuf};

use super::User;

/// Paths and addresses of one server.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) directory: PathBuf,
    pub(super) api: SocketAddr,
    pub(super) etcd_client: SocketAddr,
    pub(super) etcd_peer: SocketAddr,
    pub(super) service_cidrs: String,
    /// Additional flags for the API server.
    pub(super) flags: Vec<String>,
}

impl Layout {
    pub(super) fn certificate(&self) -> PathBuf {
        self.directory.join("apiserver.crt")
    }

    pub(super) fn key(&self) -> PathBuf {
        self.directory.join("apiserver.key")
    }

    /// Key that signs tokens of service accounts.
    pub(super) fn signing_key(&self) -> PathBuf {
        self.directory.join("sa-signer.key")
    }

    /// Key that verifies them.
    pub(super) fn signing_public_key(&self) -> PathBuf {
        self.directory.join("sa-signer.pub")
    }

    pub(super) fn tokens(&self) -> PathBuf {
        self.directory.join("tokens.csv")
    }

    pub(super) fn etcd_data(&self) -> PathBuf {
        self.directory.join("etcd")
    }

    /// Flags for etcd 3.4 and later. The data is worth nothing, but `--unsafe-no-fsync` exists only since
    /// 3.5.
    pub(super) fn etcd(&self) -> Vec<String> {
        let (client, peer) = (format!("http://{}", self.etcd_client), format!("http://{}", self.etcd_peer));
        vec![
            format!("--data-dir={}", self.etcd_data().display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
        ]
    }

    /// Flags for kube-apiserver 1.24 to 1.36.
    pub(super) fn apiserver(&self) -> Vec<String> {
        let file = |path: PathBuf| path.display().to_string();
        let flags = [
            ("etcd-servers", format!("http://{}", self.etcd_client)),
            ("bind-address", self.api.ip().to_string()),
            ("secure-port", self.api.port().to_string()),
            // The default is the address of the interface with the default route, which test namespaces lack.
            ("advertise-address", self.api.ip().to_string()),
            // The reconciler would publish that address, but endpoints cannot have a loopback address.
            ("endpoint-reconciler-type", "none".to_owned()),
            ("cert-dir", self.directory.display().to_string()),
            ("tls-cert-file", file(self.certificate())),
            ("tls-private-key-file", file(self.key())),
            ("token-auth-file", file(self.tokens())),
            ("authorization-mode", "RBAC".to_owned()),
            ("service-cluster-ip-range", self.service_cidrs.clone()),
            ("allow-privileged", "true".to_owned()),
            // No controller creates the service account `default`, without which no pod is admitted.
            ("disable-admission-plugins", "ServiceAccount".to_owned()),
            ("service-account-issuer", format!("https://{}/", self.api)),
            ("service-account-key-file", file(self.signing_public_key())),
            ("service-account-signing-key-file", file(self.signing_key())),
        ];
        let flags = flags.into_iter().map(|(flag, value)| format!("--{flag}={value}"));
        flags.chain(self.flags.iter().cloned()).collect()
    }
}

/// Content of the file for `--token-auth-file`: token, user, uid, and the groups in quotes.
pub(super) fn token_file(users: &[User]) -> String {
    let line = |(index, user): (usize, &User)| {
        format!("{},{},{},\"{}\"\n", user.token, user.name, index + 1, user.groups.join(","))
    };
    users.iter().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Layout {
            directory: PathBuf::from("/run/x"),
            api: local(6443),
            etcd_client: local(2379),
            etcd_peer: local(2380),
            service_cidrs: "10.96.0.0/16,fd00:96::/112".to_owned(),
            flags: vec!["--etcd-compaction-interval=2s".to_owned()],
        }
    }

    #[test]
    fn etcd() {
        let expect = [
            "--data-dir=/run/x/etcd",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
        ];
        assert_eq!(layout().etcd(), expect);
    }

    #[test]
    fn apiserver() {
        let expect = [
            "--etcd-servers=http://127.0.0.1:2379",
            "--bind-address=127.0.0.1",
            "--secure-port=6443",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            "--cert-dir=/run/x",
            "--tls-cert-file=/run/x/apiserver.crt",
            "--tls-private-key-file=/run/x/apiserver.key",
            "--token-auth-file=/run/x/tokens.csv",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112",
            "--allow-privileged=true",
            "--disable-admission-plugins=ServiceAccount",
            "--service-account-issuer=https://127.0.0.1:6443/",
            "--service-account-key-file=/run/x/sa-signer.pub",
            "--service-account-signing-key-file=/run/x/sa-signer.key",
            "--etcd-compaction-interval=2s",
        ];
        assert_eq!(layout().apiserver(), expect);
    }

    #[test]
    fn tokens() {
        let user = User {
            token: "t".to_owned(),
            name: "system:serviceaccount:kube-system:kube-ipvs".to_owned(),
            groups: vec!["a".to_owned(), "b".to_owned()],
        };
        assert_eq!(
            token_file(&[User::administrator("secret"), user]),
            "secret,admin,1,\"system:masters\"\nt,system:serviceaccount:kube-system:kube-ipvs,2,\"a,b\"\n"
        );
    }
}
