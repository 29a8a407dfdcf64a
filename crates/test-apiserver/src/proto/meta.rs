//! Messages of apimachinery (pkg/apis/meta/v1/generated.proto).

use jiff::Timestamp;
use k8s_pb::apimachinery::pkg::{
    apis::meta::v1::{
        Condition, FieldsV1, ListMeta, ManagedFieldsEntry, ObjectMeta, OwnerReference, Status, StatusCause,
        StatusDetails, Time,
    },
    util::intstr::IntOrString,
};
use serde_json::Value;

use super::fields::{Fields, Untyped, text};

pub(super) fn object_meta(fields: &mut Fields) -> Result<ObjectMeta, Untyped> {
    Ok(ObjectMeta {
        name: fields.text("name")?,
        generate_name: fields.text("generateName")?,
        namespace: fields.text("namespace")?,
        self_link: fields.text("selfLink")?,
        uid: fields.text("uid")?,
        resource_version: fields.text("resourceVersion")?,
        generation: fields.number("generation")?,
        creation_timestamp: Some(time(fields, "creationTimestamp")?.unwrap_or_default()),
        deletion_timestamp: time(fields, "deletionTimestamp")?,
        deletion_grace_period_seconds: fields.number_pointer("deletionGracePeriodSeconds")?,
        labels: fields.map("labels", text)?,
        annotations: fields.map("annotations", text)?,
        owner_references: fields.messages("ownerReferences", owner_reference)?,
        finalizers: fields.texts("finalizers")?,
        managed_fields: fields.messages("managedFields", managed_fields)?,
    })
}

fn owner_reference(fields: &mut Fields) -> Result<OwnerReference, Untyped> {
    Ok(OwnerReference {
        api_version: fields.text("apiVersion")?,
        kind: fields.text("kind")?,
        name: fields.text("name")?,
        uid: fields.text("uid")?,
        controller: fields.flag_pointer("controller")?,
        block_owner_deletion: fields.flag_pointer("blockOwnerDeletion")?,
    })
}

fn managed_fields(fields: &mut Fields) -> Result<ManagedFieldsEntry, Untyped> {
    Ok(ManagedFieldsEntry {
        manager: fields.text("manager")?,
        operation: fields.text("operation")?,
        api_version: fields.text("apiVersion")?,
        time: time(fields, "time")?,
        fields_type: fields.text("fieldsType")?,
        // The content stays JSON.
        fields_v1: fields
            .take("fieldsV1")
            .map(|value| FieldsV1 { raw: Some(value.to_string().into_bytes()) }),
        subresource: fields.text("subresource")?,
    })
}

pub(super) fn condition(fields: &mut Fields) -> Result<Condition, Untyped> {
    Ok(Condition {
        r#type: fields.text("type")?,
        status: fields.text("status")?,
        observed_generation: fields.number("observedGeneration")?,
        last_transition_time: Some(time(fields, "lastTransitionTime")?.unwrap_or_default()),
        reason: fields.text("reason")?,
        message: fields.text("message")?,
    })
}

/// Takes a time, as Go writes it: in whole seconds (`Time.ProtoTime` in time_proto.go).
pub(super) fn time(fields: &mut Fields, field: &str) -> Result<Option<Time>, Untyped> {
    let Some(text) = fields.pointer(field)? else { return Ok(None) };
    let time: Timestamp = text.parse().map_err(|_| Untyped)?;
    if time.to_string() != text || time.subsec_nanosecond() != 0 {
        return Err(Untyped);
    }
    Ok(Some(Time { seconds: Some(time.as_second()), nanos: Some(0) }))
}

/// Takes a number or a name.
pub(super) fn int_or_string(fields: &mut Fields, field: &str) -> Result<IntOrString, Untyped> {
    let zero = IntOrString { r#type: Some(0), int_val: Some(0), str_val: Some(String::new()) };
    Ok(match fields.take(field) {
        None => zero,
        Some(Value::String(text)) => IntOrString { r#type: Some(1), str_val: Some(text), ..zero },
        Some(value) => {
            let number = value.as_i64().and_then(|number| number.try_into().ok()).ok_or(Untyped)?;
            IntOrString { int_val: Some(number), ..zero }
        }
    })
}

/// A Status, whose JSON is this server's own.
pub(super) fn status(status: &Value) -> Status {
    let text = |value: &Value, field: &str| Some(value[field].as_str().unwrap_or_default().to_owned());
    let number = |value: &Value| Some(value.as_i64().and_then(|n| n.try_into().ok()).unwrap_or_default());
    let cause = |cause: &Value| StatusCause {
        reason: text(cause, "reason"),
        message: text(cause, "message"),
        field: text(cause, "field"),
    };
    let details = status.get("details").map(|details| StatusDetails {
        name: text(details, "name"),
        group: text(details, "group"),
        kind: text(details, "kind"),
        uid: text(details, "uid"),
        causes: details["causes"].as_array().into_iter().flatten().map(cause).collect(),
        retry_after_seconds: number(&details["retryAfterSeconds"]),
    });
    Status {
        metadata: Some(ListMeta {
            self_link: Some(String::new()),
            resource_version: Some(String::new()),
            r#continue: Some(String::new()),
            remaining_item_count: None,
        }),
        status: text(status, "status"),
        message: text(status, "message"),
        reason: text(status, "reason"),
        details,
        code: number(&status["code"]),
    }
}
