//! Filters as bytes.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::datatypes::Schema;
use datafusion::common::Result as DfResult;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF};
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::from_proto::parse_physical_expr;
use datafusion_proto::physical_plan::to_proto::serialize_physical_expr;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use datafusion_proto::protobuf::PhysicalExprNode;
use prost::Message;

use crate::error::{SqlError, SqlResult};
use crate::exec::run::ParameterUdf;
use crate::plan::engine::Engine;

/// The functions every node has.
static FUNCTIONS: LazyLock<Arc<TaskContext>> = LazyLock::new(|| Engine::shared().task_context());

/// Functions travel by name only.
#[derive(Debug)]
struct ByName;

impl PhysicalExtensionCodec for ByName {
    fn try_decode(
        &self,
        _buf: &[u8],
        _inputs: &[Arc<dyn ExecutionPlan>],
        _ctx: &TaskContext,
        _proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Err(SqlError::corrupt("a scan program with a plan").into())
    }

    fn try_encode(
        &self,
        _node: Arc<dyn ExecutionPlan>,
        _buf: &mut Vec<u8>,
        _proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> DfResult<()> {
        Err(SqlError::internal("a scan program with a plan").into())
    }

    fn try_decode_udf(&self, name: &str, _buf: &[u8]) -> DfResult<Arc<ScalarUDF>> {
        FUNCTIONS.scalar_functions().get(name).cloned().ok_or_else(|| {
            SqlError::corrupt(format!("a scan program with the unknown function {name}")).into()
        })
    }
}

/// A filter as bytes, with the values of parameters in it; `None` if it uses what cannot travel.
pub fn encode(filter: &Arc<dyn PhysicalExpr>) -> SqlResult<Option<Vec<u8>>> {
    let bound = Arc::clone(filter).transform_up(|expr| {
        let parameter = ScalarFunctionExpr::try_downcast_func::<ParameterUdf>(expr.as_ref());
        if parameter.is_none() {
            return Ok(Transformed::no(expr));
        }
        let none = datafusion::arrow::array::RecordBatch::new_empty(Arc::new(Schema::empty()));
        match expr.evaluate(&none)? {
            ColumnarValue::Scalar(value) => {
                Ok(Transformed::yes(Arc::new(Literal::new(value)) as Arc<dyn PhysicalExpr>))
            }
            ColumnarValue::Array(_) => Ok(Transformed::no(expr)),
        }
    });
    let bound = bound.data()?;
    let mut known = true;
    bound.apply(|expr| {
        let any: &dyn std::any::Any = expr.as_ref();
        if let Some(call) = any.downcast_ref::<ScalarFunctionExpr>() {
            let registered = FUNCTIONS.scalar_functions().get(call.fun().name());
            known &= registered.is_some_and(|function| function.as_ref() == call.fun());
        }
        Ok(if known { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    if !known {
        return Ok(None);
    }
    // What has no protobuf form runs at the gateway.
    Ok(serialize_physical_expr(&bound, &ByName).ok().map(|node| node.encode_to_vec()))
}

/// The filter of some bytes, over columns of this schema.
pub fn decode(bytes: &[u8], schema: &Schema) -> SqlResult<Arc<dyn PhysicalExpr>> {
    let node = PhysicalExprNode::decode(bytes)
        .map_err(|error| SqlError::corrupt(format!("a scan program is damaged: {error}")))?;
    Ok(parse_physical_expr(&node, &FUNCTIONS, schema, &ByName)?)
}
