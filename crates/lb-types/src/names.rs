//! Names of Kubernetes objects.

use std::{fmt, hash::BuildHasher, sync::Arc};

use foldhash::quality::FixedState;

/// Namespace and name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// `metadata.namespace`
    pub namespace: Arc<str>,
    /// `metadata.name`
    pub name: Arc<str>,
}

impl ServiceName {
    /// Makes a name of two strings.
    pub fn new(namespace: &str, name: &str) -> Self {
        ServiceName { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One port of one Service, as listings name it: `NAMESPACE/NAME:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortName {
    /// The Service.
    pub service: ServiceName,
    /// Port name; empty when the Service has a single unnamed port.
    pub port: Arc<str>,
}

impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.port {
            "" => self.service.fmt(f),
            port => write!(f, "{}:{port}", self.service),
        }
    }
}

/// Identity of a pod: its UID in 128 bits.
///
/// An address comes back under another pod, and pods of one node's network share an address: only the UID
/// tells them apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodUid([u8; 16]);

impl PodUid {
    /// Length of a UUID in text.
    const TEXT_LEN: usize = 36;

    /// UID of a pod by the text of `targetRef.uid`: a UUID, or any other text, which is hashed. `None` for no
    /// text.
    pub fn new(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| PodUid::from_uuid(text).unwrap_or_else(|| PodUid::hashed(text)))
    }

    /// UID at the end of `NAMESPACE/NAME/UID`; `None` where that has no UID.
    pub fn of(pod: &str) -> Option<Self> {
        pod.rsplit_once('/').and_then(|(_, uid)| PodUid::new(uid))
    }

    /// UUID in the one spelling that [`PodUid`] prints: lower-case hexadecimal digits with dashes.
    pub fn from_uuid(text: &str) -> Option<Self> {
        if text.len() != PodUid::TEXT_LEN {
            return None;
        }
        let mut uuid = 0;
        for (i, byte) in text.bytes().enumerate() {
            let digit = match byte {
                b'-' if is_dash(i) => continue,
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                _ => return None,
            };
            if is_dash(i) {
                return None;
            }
            uuid = uuid << 4 | u128::from(digit);
        }
        Some(PodUid(uuid.to_be_bytes()))
    }

    /// The 128 bits of a UUID.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        PodUid(bytes)
    }

    /// The 128 bits.
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }

    /// Identity from any other text: two independent hashes, the same in every process.
    fn hashed(text: &str) -> Self {
        let half = |seed| FixedState::with_seed(seed).hash_one(text);
        PodUid((u128::from(half(1)) << 64 | u128::from(half(2))).to_be_bytes())
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            let dash = if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

const fn is_dash(i: usize) -> bool {
    matches!(i, 8 | 13 | 18 | 23)
}

#[cfg(test)]
mod tests {
    use super::PodUid;

    #[test]
    fn uids_are_told_apart_and_printed_as_they_came() {
        let uuid = "0123cdef-89ab-cdef-0123-456789abcdef";
        assert_eq!(PodUid::new(uuid).unwrap().to_string(), uuid);
        assert_eq!(PodUid::of(&format!("shop/web-1/{uuid}")), PodUid::new(uuid));
        for odd in [&*uuid.to_uppercase(), "0123cdef-89ab-cdef-0123-456789abcde-", "a", "uid-a"] {
            assert_eq!(PodUid::from_uuid(odd), None, "{odd}");
            assert!(PodUid::new(odd).is_some() && PodUid::new(odd) != PodUid::new(uuid), "{odd}");
        }
        assert_ne!(PodUid::new("uid-a"), PodUid::new("uid-b"));
        for none in ["shop/web-1/", "shop/", ""] {
            assert_eq!(PodUid::of(none), None, "{none}");
        }
    }
}
