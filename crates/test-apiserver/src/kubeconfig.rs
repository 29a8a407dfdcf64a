//! kubeconfig files.

use std::fmt::Write;

/// Renders a kubeconfig for `server` with one user, and with the certificate of the authority in it.
pub(crate) fn render(server: &str, ca_pem: Option<&str>, token: Option<&str>) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
         contexts:\n- name: test\n  context: {{cluster: test, user: test}}\n\
         clusters:\n- name: test\n  cluster:\n    server: {server}\n"
    );
    if let Some(pem) = ca_pem {
        let _ = writeln!(text, "    certificate-authority-data: {}", base64(pem.as_bytes()));
    }
    match token {
        Some(token) => {
            let _ = writeln!(text, "users:\n- name: test\n  user:\n    token: \"{token}\"");
        }
        None => text.push_str("users:\n- name: test\n  user: {}\n"),
    }
    text
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |index| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit)) & 63;
            let used = digit <= chunk.len();
            text.push(if used { char::from(DIGITS[value as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_rfc_4648() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn kubeconfig() {
        let expect = "\
apiVersion: v1
kind: Config
current-context: test
contexts:
- name: test
  context: {cluster: test, user: test}
clusters:
- name: test
  cluster:
    server: https://127.0.0.1:6443
    certificate-authority-data: Zm9v
users:
- name: test
  user:
    token: \"secret\"
";
        assert_eq!(render("https://127.0.0.1:6443", Some("foo"), Some("secret")), expect);
    }
}
