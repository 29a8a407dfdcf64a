//! Events of the API about what the process, its loop and the health checks of Services have to say.

use std::sync::Arc;

use kube_source::{Notice, Reason, Regarding, ServiceRef};
use lb_types::ServiceName;
use planner::ProblemKind;
use reconcile::{NewProblem, ServiceProblem};
use telemetry::{ListenFailure, ListenFault};

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

/// The port of a Service's health check does not answer for it.
pub fn of_listen_failure(ListenFailure { check, reason }: &ListenFailure) -> Option<Notice> {
    let (name, port) = (ServiceName::new(&check.namespace, &check.name), check.port);
    let note = match reason {
        ListenFault::System(error) => format!(
            "spec.healthCheckNodePort: cannot listen on port {port}: {error}; load balancers take this node for one without \
             endpoints; it is tried again until it succeeds"
        ),
        ListenFault::OfService(other) => format!(
            "spec.healthCheckNodePort: port {port} is answered for Service {other}, which has it, too; give one of them another"
        ),
    };
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
    fn a_port_of_another_service_is_not_said_to_be_tried_again() {
        let check = telemetry::HealthCheck {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            uid: "u1".into(),
            port: 30_900.try_into().unwrap(),
            ipv6: false,
            balancers: Vec::new(),
            local_endpoints: 1,
        };
        let note = |reason| of_listen_failure(&ListenFailure { check: check.clone(), reason }).unwrap().note;
        let refused = note(ListenFault::System("Address already in use (os error 98)".to_owned()));
        assert!(refused.contains("cannot listen on port 30900: Address") && refused.contains("tried again"));
        let taken = note(ListenFault::OfService("shop/old".to_owned()));
        assert!(taken.contains("answered for Service shop/old") && !taken.contains("tried again"), "{taken}");
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
