//! Operands, and operations that record gradients.
//!
//! An operation is computed on the operands' values alone. Where one of them records, [`record`] adds a step to Burn's
//! graph, which holds an [`Operation`]: what the backward pass has to read.

use std::fmt::Debug;

#[cfg(any(feature = "autodiff", test))]
pub(super) use recorded::{reach, record};
#[cfg(not(any(feature = "autodiff", test)))]
pub(super) use unrecorded::{reach, record};

use burn::backend::flex::FlexTensor;

#[cfg(any(feature = "autodiff", test))]
type Node = recorded::Node;
#[cfg(not(any(feature = "autodiff", test)))]
type Node = std::convert::Infallible;

/// An operand's values, and what the graph knows of it.
#[derive(Debug, Clone)]
pub(super) struct Operand {
    pub(super) tensor: FlexTensor,
    node: Option<Node>,
}

impl Operand {
    /// Whether this is a tensor of a device that records, with or without gradients of its own.
    pub(super) fn is_in_graph(&self) -> bool {
        self.node.is_some()
    }

    /// Whether gradients are to reach this operand.
    pub(super) fn is_recorded(&self) -> bool {
        #[cfg(any(feature = "autodiff", test))]
        return self.node.as_ref().is_some_and(Node::is_recorded);
        #[cfg(not(any(feature = "autodiff", test)))]
        return self.node.is_some();
    }
}

/// The backward pass of an operation with `N` operands.
pub(super) trait Operation<const N: usize>: Debug + Clone + Send + 'static {
    /// The gradients by the operands that are `wanted`, given the one by the output; of the operands' types and shapes.
    fn backward(&self, gradient: FlexTensor, wanted: [bool; N]) -> [Option<FlexTensor>; N];
}

#[cfg(any(feature = "autodiff", test))]
mod recorded {
    use std::marker::PhantomData;

    use burn::{
        backend::{
            Autodiff, BackendTypes, Flex,
            autodiff::{
                checkpoint::{
                    base::Checkpointer,
                    strategy::{BalancedCheckpointing, CheckpointStrategy, NoCheckpointing},
                },
                grads::Gradients,
                ops::{Backward, Ops, OpsKind},
            },
            flex::FlexTensor,
        },
        tensor::{Float, Tensor},
    };

    use super::{Operand, Operation};

    type Recorded = <Autodiff<Flex> as BackendTypes>::FloatTensorPrimitive;

    /// A tensor in the graph, and what the graph does with cheap operations.
    #[derive(Debug, Clone)]
    pub(in super::super) struct Node {
        tensor: Recorded,
        recomputes: bool,
    }

    impl Node {
        pub(super) fn is_recorded(&self) -> bool {
            self.tensor.is_tracked()
        }
    }

    /// The tensor as flex holds it, where it does.
    pub(in super::super) fn reach<const D: usize>(x: &Tensor<D>) -> Option<Operand> {
        if let Ok(tensor) = x.clone().try_into_primitive::<Flex>() {
            return Some(Operand { tensor, node: None });
        }
        let plain = x.clone().try_into_primitive::<Autodiff<Flex, NoCheckpointing>>();
        let (tensor, recomputes) = match plain {
            Ok(tensor) => (tensor, false),
            Err(_) => {
                let x = x.clone();
                (x.try_into_primitive::<Autodiff<Flex, BalancedCheckpointing>>().ok()?, true)
            }
        };
        Some(Operand {
            tensor: tensor.primitive().clone(),
            node: Some(Node { tensor, recomputes }),
        })
    }

    /// The output as a tensor: in the graph where an operand is.
    pub(in super::super) fn record<O: Operation<N>, const N: usize, const D: usize>(
        operands: [Option<&Operand>; N],
        output: FlexTensor,
        operation: impl FnOnce() -> O,
    ) -> Tensor<D> {
        let mut nodes = operands.iter().filter_map(|operand| operand.and_then(|o| o.node.as_ref()));
        match nodes.next() {
            None => Tensor::<D, Float>::from_primitive::<Flex>(output),
            Some(Node { recomputes: false, .. }) => {
                let output = step::<NoCheckpointing, _, N>(operands, output, operation);
                Tensor::from_primitive::<Autodiff<Flex, NoCheckpointing>>(output)
            }
            Some(Node { recomputes: true, .. }) => {
                let output = step::<BalancedCheckpointing, _, N>(operands, output, operation);
                Tensor::from_primitive::<Autodiff<Flex, BalancedCheckpointing>>(output)
            }
        }
    }

    fn step<C: CheckpointStrategy, O: Operation<N>, const N: usize>(
        operands: [Option<&Operand>; N],
        output: FlexTensor,
        operation: impl FnOnce() -> O,
    ) -> Recorded {
        let guards = operands.map(|operand| match operand.and_then(|o| o.node.as_ref()) {
            Some(node) => node.tensor.node(),
            // A constant, or an operand that there is none of: gradients stop here.
            None => Recorded::new(output.clone()).node(),
        });
        match Step::<O>(PhantomData).prepare::<C>(guards).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(operation(), output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }

    /// A step of the graph.
    #[derive(Debug)]
    struct Step<O>(PhantomData<O>);

    impl<O: Operation<N>, const N: usize> Backward<Flex, N> for Step<O> {
        type State = O;

        fn backward(
            self,
            ops: Ops<O, N>,
            gradients: &mut Gradients,
            _checkpointer: &mut Checkpointer,
        ) {
            let gradient = gradients.consume::<Flex>(&ops.node);
            let wanted = ops.parents.each_ref().map(Option::is_some);
            let found = ops.state.backward(gradient, wanted);
            for (parent, gradient) in ops.parents.into_iter().zip(found) {
                if let (Some(parent), Some(gradient)) = (parent, gradient) {
                    gradients.register::<Flex>(parent.id, gradient);
                }
            }
        }
    }
}

#[cfg(not(any(feature = "autodiff", test)))]
mod unrecorded {
    use burn::{
        backend::{Flex, flex::FlexTensor},
        tensor::{Float, Tensor},
    };

    use super::{Operand, Operation};

    /// The tensor as flex holds it, where it does.
    pub(in super::super) fn reach<const D: usize>(x: &Tensor<D>) -> Option<Operand> {
        let tensor = x.clone().try_into_primitive::<Flex>().ok()?;
        Some(Operand { tensor, node: None })
    }

    /// The output as a tensor.
    pub(in super::super) fn record<O: Operation<N>, const N: usize, const D: usize>(
        _operands: [Option<&Operand>; N],
        output: FlexTensor,
        _operation: impl FnOnce() -> O,
    ) -> Tensor<D> {
        Tensor::<D, Float>::from_primitive::<Flex>(output)
    }
}
