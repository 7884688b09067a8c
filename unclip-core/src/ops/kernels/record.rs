//! Operands, and operations that record gradients.
//!
//! An operation is computed on the operands' values alone. Where one of them records, [`record`] adds a step to Burn's
//! graph, which holds an [`Operation`]: what the backward pass has to read.
//!
//! A tensor that several operations read has the sum of their gradients. Burn would take it in the logical order of the
//! axes, value by value where these have 16 bits, and leave it so; see [`Gathered`](recorded::Gathered).

use std::fmt::Debug;

#[cfg(any(feature = "autodiff", test))]
pub(super) use recorded::{Output, reach, record};
#[cfg(not(any(feature = "autodiff", test)))]
pub(super) use unrecorded::{Output, reach, record};

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
    use std::{
        collections::HashMap,
        marker::PhantomData,
        sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    };

    use burn::{
        backend::{
            Autodiff, BackendTypes, Flex,
            autodiff::{
                NodeId,
                checkpoint::{
                    base::Checkpointer,
                    strategy::{BalancedCheckpointing, CheckpointStrategy, NoCheckpointing},
                },
                grads::Gradients,
                ops::{Backward, Ops, OpsKind},
            },
            flex::FlexTensor,
        },
        tensor::Tensor,
    };

    use super::{
        super::{rounded, stored},
        Operand, Operation,
    };

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

    /// What an operation gives, of any number of axes.
    #[derive(Debug)]
    pub(in super::super) enum Output {
        Plain(FlexTensor),
        Recorded(Node),
    }

    impl<const D: usize> From<Output> for Tensor<D> {
        fn from(output: Output) -> Self {
            match output {
                Output::Plain(tensor) => Self::from_primitive::<Flex>(tensor),
                Output::Recorded(Node { tensor, recomputes: false }) => {
                    Self::from_primitive::<Autodiff<Flex, NoCheckpointing>>(tensor)
                }
                Output::Recorded(Node { tensor, recomputes: true }) => {
                    Self::from_primitive::<Autodiff<Flex, BalancedCheckpointing>>(tensor)
                }
            }
        }
    }

    /// The output of an operation: in the graph where an operand is.
    pub(in super::super) fn record<O: Operation<N>, const N: usize>(
        operands: [Option<&Operand>; N],
        output: FlexTensor,
        operation: impl FnOnce() -> O,
    ) -> Output {
        let mut nodes = operands.iter().filter_map(|operand| operand.and_then(|o| o.node.as_ref()));
        let Some(&Node { recomputes, .. }) = nodes.next() else { return Output::Plain(output) };
        let tensor = if recomputes {
            step::<BalancedCheckpointing, _, N>(operands, output, operation)
        } else {
            step::<NoCheckpointing, _, N>(operands, output, operation)
        };
        Output::Recorded(Node { tensor, recomputes })
    }

    fn step<C: CheckpointStrategy, O: Operation<N>, const N: usize>(
        operands: [Option<&Operand>; N],
        output: FlexTensor,
        operation: impl FnOnce() -> O,
    ) -> Recorded {
        let nodes = operands.map(|operand| operand.and_then(|operand| operand.node.as_ref()));
        let guards = nodes.map(|node| match node {
            Some(node) => node.tensor.node(),
            // A constant, or an operand that there is none of: gradients stop here.
            None => Recorded::new(output.clone()).node(),
        });
        match Step::<O>(PhantomData).prepare::<C>(guards).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let state = State {
                    operation: operation(),
                    own: Arc::default(),
                    of: nodes.map(|node| node.and_then(|node| Gathered::of(node.tensor.id()))),
                };
                let own = state.own.clone();
                let output = prepared.finish(state, output);
                own.belongs_to(output.id());
                output
            }
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }

    /// A step of the graph.
    #[derive(Debug)]
    struct Step<O>(PhantomData<O>);

    /// What its backward pass reads.
    #[derive(Debug, Clone)]
    struct State<O, const N: usize> {
        operation: O,
        own: Arc<Gathered>,
        /// Where the gradients of operands go that are such steps' outputs.
        of: [Option<Arc<Gathered>>; N],
    }

    impl<O: Operation<N>, const N: usize> Backward<Flex, N> for Step<O> {
        type State = State<O, N>;

        fn backward(
            self,
            ops: Ops<State<O, N>, N>,
            gradients: &mut Gradients,
            _checkpointer: &mut Checkpointer,
        ) {
            let State { operation, own, of } = ops.state;
            let gradient = own.with(gradients.consume::<Flex>(&ops.node));
            let wanted = ops.parents.each_ref().map(Option::is_some);
            let found = operation.backward(gradient, wanted);
            for ((parent, gradient), gathered) in ops.parents.into_iter().zip(found).zip(of) {
                let (Some(parent), Some(gradient)) = (parent, gradient) else { continue };
                let registered = match gathered {
                    Some(gathered) => gathered.add(gradient),
                    None => Some(gradient),
                };
                if let Some(gradient) = registered {
                    gradients.register::<Flex>(parent.id, gradient);
                }
            }
        }
    }

    /// The gradient of a step's output, as far as it comes from other steps of this module: they add to it here, by the
    /// kernels and as it lies, and tell Burn a single zero in its place.
    #[derive(Debug, Default)]
    pub(super) struct Gathered {
        sum: Mutex<Option<FlexTensor>>,
        id: OnceLock<NodeId>,
    }

    /// What gathers for which node, as long as its step lives.
    static GATHERING: LazyLock<Mutex<HashMap<NodeId, Weak<Gathered>>>> =
        LazyLock::new(Mutex::default);

    /// The lock's content; a panic elsewhere leaves nothing half-done behind these locks.
    fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    impl Gathered {
        /// What gathers for a node, where a step of this module made it.
        fn of(node: NodeId) -> Option<Arc<Self>> {
            locked(&GATHERING).get(&node)?.upgrade()
        }

        fn belongs_to(self: &Arc<Self>, node: NodeId) {
            self.id.get_or_init(|| node);
            locked(&GATHERING).insert(node, Arc::downgrade(self));
        }

        /// Adds a gradient. The first leaves something to register, so that Burn knows of the tensor's having one.
        fn add(&self, gradient: FlexTensor) -> Option<FlexTensor> {
            let mut sum = locked(&self.sum);
            let Some(before) = sum.take() else {
                let zero =
                    rounded(vec![0.0], gradient.dtype(), vec![1; gradient.layout().num_dims()]);
                *sum = Some(gradient);
                return Some(zero);
            };
            *sum = Some(stored::sum(before, gradient));
            None
        }

        /// The whole gradient, given what Burn was told.
        fn with(&self, registered: FlexTensor) -> FlexTensor {
            match locked(&self.sum).take() {
                None => registered,
                Some(sum) if sum.layout().shape() != registered.layout().shape() => sum,
                Some(sum) => stored::sum(sum, registered),
            }
        }
    }

    impl Drop for Gathered {
        fn drop(&mut self) {
            if let Some(id) = self.id.get() {
                locked(&GATHERING).remove(id);
            }
        }
    }
}

#[cfg(not(any(feature = "autodiff", test)))]
mod unrecorded {
    use burn::{
        backend::{Flex, flex::FlexTensor},
        tensor::Tensor,
    };

    use super::{Operand, Operation};

    /// The tensor as flex holds it, where it does.
    pub(in super::super) fn reach<const D: usize>(x: &Tensor<D>) -> Option<Operand> {
        let tensor = x.clone().try_into_primitive::<Flex>().ok()?;
        Some(Operand { tensor, node: None })
    }

    /// What an operation gives, of any number of axes.
    #[derive(Debug)]
    pub(in super::super) struct Output(FlexTensor);

    impl<const D: usize> From<Output> for Tensor<D> {
        fn from(output: Output) -> Self {
            Self::from_primitive::<Flex>(output.0)
        }
    }

    /// The output of an operation.
    pub(in super::super) fn record<O: Operation<N>, const N: usize>(
        _operands: [Option<&Operand>; N],
        output: FlexTensor,
        _operation: impl FnOnce() -> O,
    ) -> Output {
        Output(output)
    }
}
