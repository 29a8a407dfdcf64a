//! Events of the API about what the process, its loop and the health checks of Services have to say.

use std::sync::Arc;

use kube_source::{Notice, Reason, Regarding, ServiceRef};
use lb_types::ServiceName;
use planner::ProblemKind;
use reconcile::{NewProblem, ServiceProblem};
use telemetry::ListenFailure;

/// The process has started.
pub fn of_start() -> Notice {
    let note =
        concat!("kube-ipvs ", env!("CARGO_PKG_VERSION"), " serves the Services of this node").to_owned();
    Notice { regarding: Regarding::Node, reason: Reason::Starting, note }
}

/// A problem that the loop has found.
pub fn of_problem(NewProblem { uid, problem }: &NewProblem) -> Option<Notice> {
    let reason = match problem {
        ServiceProblem::EndpointsFull { .. } => Reason::AllEndpointsFull,
        ServiceProblem::Intent(problem) => match problem.kind {
            ProblemKind::ClaimedByOther { .. }
            | ProblemKind::BoundFurther { .. }
            | ProblemKind::PortIsNodePort { .. } => Reason::ClaimedByOther,
            ProblemKind::ExternalIpIsClusterIp { .. }
            | ProblemKind::ExternalIpIsOfService { .. }
            | ProblemKind::ExternalIpIsPodIp { .. }
            | ProblemKind::ExternalIpNotAllowed { .. } => Reason::AddressNotServed,
            ProblemKind::AnnotationForbidden { .. }
            | ProblemKind::SchedulerNotAllowed { .. }
            | ProblemKind::BindingNotAllowed { .. }
            | ProblemKind::TimeoutTooLong { .. } => Reason::AnnotationNotAllowed,
            // As node-local caches mean it; over in a moment when ports are renamed; served as it asks.
            ProblemKind::PortIsNodes { .. }
            | ProblemKind::UnmatchedPort { .. }
            | ProblemKind::RefusesWhileDraining { .. } => return None,
        },
    };
    of_service(problem.service(), uid, reason, &problem.to_string())
}

/// The port of a Service's health check cannot be listened on.
pub fn of_listen_failure(ListenFailure { check, reason }: &ListenFailure) -> Option<Notice> {
    let name = ServiceName::new(&check.namespace, &check.name);
    let note = format!(
        "spec.healthCheckNodePort: cannot listen on port {}: {reason}; load balancers take this node for one without \
         endpoints; it is tried again until it succeeds",
        check.port
    );
    of_service(&name, &check.uid, Reason::FailedToStartServiceHealthcheck, &note)
}

/// A notice about a Service; manifests may have some without a UID, which no event can refer to.
fn of_service(name: &ServiceName, uid: &Arc<str>, reason: Reason, text: &str) -> Option<Notice> {
    if uid.is_empty() {
        return None;
    }
    let note = text.strip_prefix(&format!("Service {name}: ")).unwrap_or(text).to_owned();
    let service = ServiceRef { name: name.clone(), uid: Arc::clone(uid) };
    Some(Notice { regarding: Regarding::Service(service), reason, note })
}

#[cfg(test)]
mod tests {
    use lb_types::{Protocol, VipPort};
    use planner::IntentProblem;

    use super::*;

    fn front() -> lb_types::Front {
        let port =
            VipPort { addr: [10, 96, 0, 1].into(), protocol: Protocol::Tcp, port: 80.try_into().unwrap() };
        port.into()
    }

    fn problem(kind: ProblemKind) -> ServiceProblem {
        ServiceProblem::Intent(IntentProblem { service: ServiceName::new("shop", "web"), kind })
    }

    fn check(problem: ServiceProblem, uid: &str, expect: Option<(Reason, &str)>) {
        let notice = of_problem(&NewProblem { uid: uid.into(), problem });
        let found = notice.as_ref().map(|notice| (notice.reason, notice.note.as_str()));
        assert_eq!(found, expect);
    }

    #[test]
    fn a_note_does_not_repeat_the_name_of_its_service() {
        let lost = || {
            problem(ProblemKind::ClaimedByOther { front: front(), winner: ServiceName::new("shop", "old") })
        };
        let note = "10.96.0.1:80/TCP is already served for Service shop/old, which is older";
        check(lost(), "u1", Some((Reason::ClaimedByOther, note)));
        check(lost(), "", None);
    }

    #[test]
    fn what_is_meant_so_or_passes_by_itself_is_no_event() {
        let kind = ProblemKind::UnmatchedPort {
            slice: service_model::SliceName { namespace: "shop".into(), name: "web-a".into() },
            name: "".into(),
            protocol: Protocol::Tcp,
        };
        check(problem(kind), "u1", None);
    }
}
