//! Services and Nodes (core/v1/generated.proto), and EndpointSlices (discovery/v1/generated.proto).

use k8s_pb::{
    api::{
        core::v1::{
            ClientIpConfig, ContainerImage, DaemonEndpoint, LoadBalancerIngress, LoadBalancerStatus, Node,
            NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus, NodeSystemInfo,
            ObjectReference, PortStatus, Service, ServicePort, ServiceSpec, ServiceStatus,
            SessionAffinityConfig, Taint,
        },
        discovery::v1::{
            Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
        },
    },
    apimachinery::pkg::api::resource::Quantity,
};

use super::{
    fields::{Fields, Untyped, text},
    meta::{condition, int_or_string, object_meta, time},
};

pub(super) fn service(mut fields: Fields) -> Result<Service, Untyped> {
    let message = Service {
        metadata: Some(fields.message("metadata", object_meta)?),
        spec: Some(fields.message("spec", service_spec)?),
        status: Some(fields.message("status", service_status)?),
    };
    fields.finish(message)
}

fn service_spec(fields: &mut Fields) -> Result<ServiceSpec, Untyped> {
    Ok(ServiceSpec {
        ports: fields.messages("ports", service_port)?,
        selector: fields.map("selector", text)?,
        cluster_ip: fields.text("clusterIP")?,
        cluster_ips: fields.texts("clusterIPs")?,
        r#type: fields.text("type")?,
        external_ips: fields.texts("externalIPs")?,
        session_affinity: fields.text("sessionAffinity")?,
        load_balancer_ip: fields.text("loadBalancerIP")?,
        load_balancer_source_ranges: fields.texts("loadBalancerSourceRanges")?,
        external_name: fields.text("externalName")?,
        external_traffic_policy: fields.text("externalTrafficPolicy")?,
        health_check_node_port: fields.number("healthCheckNodePort")?,
        publish_not_ready_addresses: fields.flag("publishNotReadyAddresses")?,
        session_affinity_config: fields.message_pointer("sessionAffinityConfig", |config| {
            let client_ip = config.message_pointer("clientIP", |client_ip| {
                Ok(ClientIpConfig { timeout_seconds: client_ip.number_pointer("timeoutSeconds")? })
            })?;
            Ok(SessionAffinityConfig { client_ip })
        })?,
        ip_families: fields.texts("ipFamilies")?,
        ip_family_policy: fields.pointer("ipFamilyPolicy")?,
        allocate_load_balancer_node_ports: fields.flag_pointer("allocateLoadBalancerNodePorts")?,
        load_balancer_class: fields.pointer("loadBalancerClass")?,
        internal_traffic_policy: fields.pointer("internalTrafficPolicy")?,
        traffic_distribution: fields.pointer("trafficDistribution")?,
    })
}

fn service_port(fields: &mut Fields) -> Result<ServicePort, Untyped> {
    Ok(ServicePort {
        name: fields.text("name")?,
        protocol: fields.text("protocol")?,
        app_protocol: fields.pointer("appProtocol")?,
        port: fields.number("port")?,
        target_port: Some(int_or_string(fields, "targetPort")?),
        node_port: fields.number("nodePort")?,
    })
}

fn service_status(fields: &mut Fields) -> Result<ServiceStatus, Untyped> {
    Ok(ServiceStatus {
        load_balancer: Some(fields.message("loadBalancer", |balancer| {
            Ok(LoadBalancerStatus { ingress: balancer.messages("ingress", ingress)? })
        })?),
        conditions: fields.messages("conditions", condition)?,
    })
}

fn ingress(fields: &mut Fields) -> Result<LoadBalancerIngress, Untyped> {
    Ok(LoadBalancerIngress {
        ip: fields.text("ip")?,
        hostname: fields.text("hostname")?,
        ip_mode: fields.pointer("ipMode")?,
        ports: fields.messages("ports", |port| {
            Ok(PortStatus {
                port: port.number("port")?,
                protocol: port.text("protocol")?,
                error: port.pointer("error")?,
            })
        })?,
    })
}

pub(super) fn node(mut fields: Fields) -> Result<Node, Untyped> {
    let message = Node {
        metadata: Some(fields.message("metadata", object_meta)?),
        spec: Some(fields.message("spec", node_spec)?),
        status: Some(fields.message("status", node_status)?),
    };
    fields.finish(message)
}

fn node_spec(fields: &mut Fields) -> Result<NodeSpec, Untyped> {
    Ok(NodeSpec {
        pod_cidr: fields.text("podCIDR")?,
        pod_cid_rs: fields.texts("podCIDRs")?,
        provider_id: fields.text("providerID")?,
        unschedulable: fields.flag("unschedulable")?,
        taints: fields.messages("taints", |taint| {
            Ok(Taint {
                key: taint.text("key")?,
                value: taint.text("value")?,
                effect: taint.text("effect")?,
                time_added: time(taint, "timeAdded")?,
            })
        })?,
        config_source: None,
        external_id: fields.text("externalID")?,
    })
}

fn node_status(fields: &mut Fields) -> Result<NodeStatus, Untyped> {
    let quantity = |value| Ok(Quantity { string: Some(text(value)?) });
    Ok(NodeStatus {
        capacity: fields.map("capacity", quantity)?,
        allocatable: fields.map("allocatable", quantity)?,
        phase: fields.text("phase")?,
        conditions: fields.messages("conditions", node_condition)?,
        addresses: fields.messages("addresses", |address| {
            Ok(NodeAddress { r#type: address.text("type")?, address: address.text("address")? })
        })?,
        daemon_endpoints: Some(fields.message("daemonEndpoints", |endpoints| {
            let kubelet = endpoints
                .message("kubeletEndpoint", |kubelet| Ok(DaemonEndpoint { port: kubelet.number("Port")? }))?;
            Ok(NodeDaemonEndpoints { kubelet_endpoint: Some(kubelet) })
        })?),
        node_info: Some(fields.message("nodeInfo", node_info)?),
        images: fields.messages("images", |image| {
            Ok(ContainerImage { names: image.texts("names")?, size_bytes: image.number("sizeBytes")? })
        })?,
        ..NodeStatus::default()
    })
}

fn node_condition(fields: &mut Fields) -> Result<NodeCondition, Untyped> {
    Ok(NodeCondition {
        r#type: fields.text("type")?,
        status: fields.text("status")?,
        last_heartbeat_time: Some(time(fields, "lastHeartbeatTime")?.unwrap_or_default()),
        last_transition_time: Some(time(fields, "lastTransitionTime")?.unwrap_or_default()),
        reason: fields.text("reason")?,
        message: fields.text("message")?,
    })
}

fn node_info(fields: &mut Fields) -> Result<NodeSystemInfo, Untyped> {
    Ok(NodeSystemInfo {
        machine_id: fields.text("machineID")?,
        system_uuid: fields.text("systemUUID")?,
        boot_id: fields.text("bootID")?,
        kernel_version: fields.text("kernelVersion")?,
        os_image: fields.text("osImage")?,
        container_runtime_version: fields.text("containerRuntimeVersion")?,
        kubelet_version: fields.text("kubeletVersion")?,
        kube_proxy_version: fields.text("kubeProxyVersion")?,
        operating_system: fields.text("operatingSystem")?,
        architecture: fields.text("architecture")?,
        swap: None,
    })
}

pub(super) fn endpoint_slice(mut fields: Fields) -> Result<EndpointSlice, Untyped> {
    let message = EndpointSlice {
        metadata: Some(fields.message("metadata", object_meta)?),
        address_type: fields.text("addressType")?,
        endpoints: fields.messages("endpoints", endpoint)?,
        ports: fields.messages("ports", |port| {
            Ok(EndpointPort {
                name: port.pointer("name")?,
                protocol: port.pointer("protocol")?,
                port: port.number_pointer("port")?,
                app_protocol: port.pointer("appProtocol")?,
            })
        })?,
    };
    fields.finish(message)
}

fn endpoint(fields: &mut Fields) -> Result<Endpoint, Untyped> {
    Ok(Endpoint {
        addresses: fields.texts("addresses")?,
        conditions: Some(fields.message("conditions", |conditions| {
            Ok(EndpointConditions {
                ready: conditions.flag_pointer("ready")?,
                serving: conditions.flag_pointer("serving")?,
                terminating: conditions.flag_pointer("terminating")?,
            })
        })?),
        hostname: fields.pointer("hostname")?,
        target_ref: fields.message_pointer("targetRef", object_reference)?,
        deprecated_topology: fields.map("deprecatedTopology", text)?,
        node_name: fields.pointer("nodeName")?,
        zone: fields.pointer("zone")?,
        hints: fields.message_pointer("hints", |hints| {
            Ok(EndpointHints {
                for_zones: hints.messages("forZones", |zone| Ok(ForZone { name: zone.text("name")? }))?,
                for_nodes: hints.messages("forNodes", |node| Ok(ForNode { name: node.text("name")? }))?,
            })
        })?,
    })
}

fn object_reference(fields: &mut Fields) -> Result<ObjectReference, Untyped> {
    Ok(ObjectReference {
        kind: fields.text("kind")?,
        namespace: fields.text("namespace")?,
        name: fields.text("name")?,
        uid: fields.text("uid")?,
        api_version: fields.text("apiVersion")?,
        resource_version: fields.text("resourceVersion")?,
        field_path: fields.text("fieldPath")?,
    })
}
