//! Packed names of pods. They are most of the text of a slice, and are only compared and shown.

use std::sync::Arc;

use lb_types::PodUid;

/// Length of a UUID in text.
const UUID_LEN: usize = 36;
/// Flag of a packed pod without its namespace, which is that of the slice.
const SAME_NAMESPACE: u8 = 1;
/// Flag of a packed pod whose last 16 bytes are a UUID.
const UUID: u8 = 2;

/// Appends a pod, `NAMESPACE/NAME/UID` or any other text, to a buffer. Nothing is appended for `None`.
pub(crate) fn pack(pod: Option<&str>, namespace: &str, buffer: &mut Vec<u8>) {
    let Some(pod) = pod else { return };
    let short = pod.strip_prefix(namespace).and_then(|rest| rest.strip_prefix('/'));
    let rest = short.unwrap_or(pod);
    let split = rest.len().checked_sub(UUID_LEN).and_then(|at| rest.split_at_checked(at));
    let uuid = split.and_then(|(head, tail)| PodUid::from_uuid(tail).map(|uuid| (head, uuid)));
    let flag = if short.is_some() { SAME_NAMESPACE } else { 0 };
    match uuid {
        Some((head, uuid)) => {
            buffer.push(flag | UUID);
            buffer.extend_from_slice(head.as_bytes());
            buffer.extend_from_slice(&uuid.bytes());
        }
        None => {
            buffer.push(flag);
            buffer.extend_from_slice(rest.as_bytes());
        }
    }
}

/// Turns the bytes that [`pack`] appended into text again.
pub(crate) fn unpack(packed: &[u8], namespace: &str) -> Option<Arc<str>> {
    let (flags, rest) = packed.split_first()?;
    let mut pod = String::with_capacity(namespace.len() + 1 + rest.len() + UUID_LEN);
    if flags & SAME_NAMESPACE != 0 {
        pod.push_str(namespace);
        pod.push('/');
    }
    match rest.split_last_chunk::<16>().filter(|_| flags & UUID != 0) {
        Some((head, uuid)) => {
            pod.push_str(&String::from_utf8_lossy(head));
            pod.push_str(&PodUid::from_bytes(*uuid).to_string());
        }
        None => pod.push_str(&String::from_utf8_lossy(rest)),
    }
    Some(pod.into())
}

/// UID of the pod that [`pack`] appended; `None` if the text has none.
pub(crate) fn uid(packed: &[u8], namespace: &str) -> Option<PodUid> {
    let (flags, rest) = packed.split_first()?;
    match rest.split_last_chunk::<16>().filter(|_| flags & UUID != 0) {
        Some((head, uuid)) if head.ends_with(b"/") => Some(PodUid::from_bytes(*uuid)),
        // A real API server never sends such a UID.
        _ => PodUid::of(&unpack(packed, namespace)?),
    }
}

#[cfg(test)]
mod tests {
    use lb_types::PodUid;
    use proptest::prelude::*;

    use super::{pack, uid, unpack};

    fn check(pod: &str, namespace: &str, expect_len: usize) {
        let mut buffer = Vec::new();
        pack(Some(pod), namespace, &mut buffer);
        assert_eq!(unpack(&buffer, namespace).as_deref(), Some(pod));
        assert_eq!(buffer.len(), expect_len, "{pod}");
    }

    #[test]
    fn lengths() {
        let uid = "0123cdef-89ab-cdef-0123-456789abcdef";
        check(&format!("shop/web-1/{uid}"), "shop", 1 + "web-1/".len() + 16);
        check(&format!("other/web-1/{uid}"), "shop", 1 + "other/web-1/".len() + 16);
        check(&format!("shop/web-1/{}", uid.to_uppercase()), "shop", 1 + "web-1/".len() + 36);
        check(uid, "shop", 17);
        check("shop/web-1/", "shop", 1 + "web-1/".len());
        check("shop/", "shop", 1);
        check("shop", "shop", 5);
        check("", "", 1);
        let odd = "ünïcödé/ähnlich/0123cdef-89ab-cdef-0123-456789abcdé";
        check(odd, "x", 1 + odd.len());
        let mut buffer = Vec::new();
        pack(None, "shop", &mut buffer);
        assert_eq!((buffer.len(), unpack(&buffer, "shop")), (0, None));
    }

    proptest! {
        #[test]
        fn unpacking_gives_back_any_text(
            pod in "(ns|other|)(/[a-z]{0,3})?/?([0-9a-f-]{36}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|.{0,40})",
            namespace in "(ns|other|)",
        ) {
            let mut buffer = Vec::new();
            pack(Some(&pod), &namespace, &mut buffer);
            let unpacked = unpack(&buffer, &namespace);
            prop_assert_eq!(unpacked.as_deref(), Some(&*pod));
            prop_assert_eq!(uid(&buffer, &namespace), PodUid::of(&pod));
        }
    }
}
