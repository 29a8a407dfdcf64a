//! Problems of objects, worded so that the author of an object can correct it.

use std::{fmt, sync::Arc};

use lb_types::ServiceName;

use crate::{Notice, Reason, Regarding, ServiceRef};

/// One fault of one object or file. Everything else is served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// File of a manifest, with the line if that is known.
    pub file: Option<Arc<str>>,
    /// Object, such as `Service default/web`; empty if the text could not be read that far.
    pub object: String,
    /// That object, if it is a Service.
    pub service: Option<ServiceRef>,
    /// Field, such as `spec.ports[1].port`; empty if the whole object is meant.
    pub field: String,
    /// Description of the fault and of its consequence.
    pub message: String,
    /// Advice for the author.
    pub remedy: String,
}

impl Problem {
    /// Notice for the author of a Service.
    pub fn notice(&self) -> Option<Notice> {
        let service = self.service.as_ref().filter(|service| !service.uid.is_empty())?.clone();
        let is_below = |field: &&str| self.field.starts_with(*field);
        let reason = if is_below(&"metadata.annotations") {
            Reason::InvalidAnnotation
        } else if ADDRESS_FIELDS.iter().any(is_below) {
            Reason::AddressNotServed
        } else {
            Reason::InvalidField
        };
        let note = words(&[&self.field], &self.message, &self.remedy);
        Some(Notice { regarding: Regarding::Service(service), reason, note })
    }
}

/// Fields of a Service that have its addresses.
const ADDRESS_FIELDS: [&str; 4] =
    ["spec.clusterIP", "spec.ipFamilies", "spec.externalIPs", "status.loadBalancer"];

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = [self.file.as_deref().unwrap_or_default(), &self.object, &self.field];
        f.write_str(&words(&places, &self.message, &self.remedy))
    }
}

/// Where something is wrong, what, and what to do.
fn words(places: &[&str], message: &str, remedy: &str) -> String {
    let places = places.iter().filter(|place| !place.is_empty()).map(|place| format!("{place}: "));
    let remedy = Some(remedy).filter(|remedy| !remedy.is_empty()).map(|remedy| format!("; {remedy}"));
    places.chain([message.to_owned()]).chain(remedy).collect()
}

/// Result of the validation of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted<T> {
    /// Part of the object that is served; `None` if there is none, which is not always a problem (a headless
    /// Service).
    pub object: Option<T>,
    /// Problems of the rest.
    pub problems: Vec<Problem>,
}

/// Problems of one object that are reported one by one; the others are counted. An object may be a megabyte of them, and
/// each is a line of the log of every node, and an event.
const MOST_PROBLEMS: usize = 16;

/// Longest text of a problem in bytes: it may quote a value.
const LONGEST_TEXT: usize = 512;

/// Collects the problems of one object.
pub(crate) struct Report {
    object: String,
    service: Option<ServiceRef>,
    problems: Vec<Problem>,
    /// Number of problems beyond the first [`MOST_PROBLEMS`].
    more: usize,
}

impl Report {
    pub(crate) fn new(object: String) -> Self {
        Report { object, service: None, problems: Vec::new(), more: 0 }
    }

    pub(crate) fn of_service(name: &ServiceName, uid: &str) -> Self {
        let service = ServiceRef { name: name.clone(), uid: uid.into() };
        Report { service: Some(service), ..Report::new(format!("Service {name}")) }
    }

    /// Adds a problem of a field; only then is the name of the field written out.
    pub(crate) fn add(
        &mut self,
        field: impl fmt::Display,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if self.problems.len() == MOST_PROBLEMS {
            self.more += 1;
            return;
        }
        self.push(field.to_string(), message.into(), remedy.into());
    }

    fn push(&mut self, field: String, message: String, remedy: String) {
        let (object, service) = (self.object.clone(), self.service.clone());
        let [field, message, remedy] = [field, message, remedy].map(shorten);
        self.problems.push(Problem { file: None, object, service, field, message, remedy });
    }

    /// Adds a problem if a lenient type found something `wrong` where a list or an object was expected.
    pub(crate) fn expect(&mut self, field: impl fmt::Display, expected: &str, wrong: Option<&'static str>) {
        if let Some(found) = wrong {
            self.add(
                field,
                format!("{expected} is expected, found {found}; ignored"),
                format!("write {expected}"),
            );
        }
    }

    /// Returns the object with all its problems.
    pub(crate) fn finish<T>(mut self, object: Option<T>) -> Converted<T> {
        if self.more > 0 {
            let message = format!("{} more problems, which are not listed", self.more);
            self.push(String::new(), message, "correct those that are listed first".to_owned());
        }
        Converted { object, problems: self.problems }
    }
}

/// Cuts a text that is too long.
fn shorten(mut text: String) -> String {
    if text.len() > LONGEST_TEXT {
        text.truncate(text.floor_char_boundary(LONGEST_TEXT));
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{convert, wire};

    /// Reasons and notes of the problems of a Service.
    fn notices(json: &str) -> Vec<(Reason, String)> {
        let wire: wire::Service = serde_json::from_str(json).unwrap();
        let problems = convert::service(&wire).problems;
        let of_web = |notice: Notice| {
            let service = ServiceRef { name: ServiceName::new("shop", "web"), uid: "u1".into() };
            assert_eq!(notice.regarding, Regarding::Service(service));
            (notice.reason, notice.note)
        };
        problems.iter().filter_map(Problem::notice).map(of_web).collect()
    }

    fn check(metadata: &str, spec: &str, expect: (Reason, &str)) {
        let found = notices(&format!(
            r#"{{"metadata":{{"namespace":"shop","name":"web","uid":"u1"{metadata}}},
                "spec":{{"ports":[{{"port":80}}]{spec}}}}}"#
        ));
        let [(reason, note)] = &found[..] else { panic!("{found:?}") };
        assert!(*reason == expect.0 && note.starts_with(expect.1), "{reason:?} {note}");
    }

    #[test]
    fn reasons_follow_from_fields_and_notes_do_not_repeat_the_object() {
        let address = r#","clusterIP":"10.96.0.1""#;
        let annotation = r#","annotations":{"kube-ipvs.io/max-connections":"many"}"#;
        let field = "metadata.annotations[kube-ipvs.io/max-connections]: a number of connections is expected";
        check(annotation, address, (Reason::InvalidAnnotation, field));
        let headless = r#","clusterIP":"None","externalIPs":["192.0.2.1"]"#;
        check("", headless, (Reason::AddressNotServed, "spec.externalIPs: no proxy serves"));
        let loopback = r#","clusterIP":"10.96.0.1","externalIPs":["127.0.0.1"]"#;
        check("", loopback, (Reason::AddressNotServed, "spec.externalIPs[0]: 127.0.0.1 is"));
        let affinity = r#","clusterIP":"10.96.0.1","sessionAffinity":"Sometimes""#;
        check("", affinity, (Reason::InvalidField, "spec.sessionAffinity: unknown affinity"));
    }

    #[test]
    fn a_service_without_a_uid_has_no_notices() {
        let json = r#"{"metadata":{"namespace":"shop","name":"web"},"spec":{"clusterIP":"10.96.0.1"}}"#;
        assert_eq!(notices(json), []);
    }
}
