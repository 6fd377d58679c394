package grant

import "math/rand/v2"

// tree holds intervals [first, end) of int64 with values, and finds those that overlap a given one in O(log n + found).
// It is a treap: a search tree by (first, id), a heap by random priority, which keeps it balanced whatever the order of
// insertion. Intervals may overlap each other; ids tell apart those that begin alike.
//
// Invariants, for every node: first < end; keys left of it are smaller, right of it greater; priorities below it are
// not greater; maxEnd is the greatest end in its subtree, so that a search can leave out subtrees that end too early.
type tree[V any] struct {
	root *node[V]
	size int
}

type node[V any] struct {
	first, end  int64
	id          uint64
	value       V
	maxEnd      int64
	priority    uint64
	left, right *node[V]
}

// before orders nodes by key.
func (n *node[V]) before(first int64, id uint64) bool {
	return n.first < first || n.first == first && n.id < id
}

func (n *node[V]) update() {
	n.maxEnd = n.end
	if n.left != nil {
		n.maxEnd = max(n.maxEnd, n.left.maxEnd)
	}
	if n.right != nil {
		n.maxEnd = max(n.maxEnd, n.right.maxEnd)
	}
}

// insert adds an interval. Its key must not be in the tree.
func (t *tree[V]) insert(first, end int64, id uint64, value V) {
	n := &node[V]{first: first, end: end, id: id, value: value, maxEnd: end, priority: rand.Uint64()}
	t.root = insert(t.root, n)
	t.size++
}

func insert[V any](root, n *node[V]) *node[V] {
	switch {
	case root == nil:
		return n
	case n.priority > root.priority:
		n.left, n.right = split(root, n.first, n.id)
		n.update()
		return n
	case root.before(n.first, n.id):
		root.right = insert(root.right, n)
	default:
		root.left = insert(root.left, n)
	}
	root.update()
	return root
}

// split parts a subtree into the keys before (first, id) and the rest.
func split[V any](root *node[V], first int64, id uint64) (left, right *node[V]) {
	if root == nil {
		return nil, nil
	}
	if root.before(first, id) {
		root.right, right = split(root.right, first, id)
		root.update()
		return root, right
	}
	left, root.left = split(root.left, first, id)
	root.update()
	return left, root
}

// remove takes out the interval with the key, and says whether there was one.
func (t *tree[V]) remove(first int64, id uint64) bool {
	root, ok := remove(t.root, first, id)
	if t.root = root; ok {
		t.size--
	}
	return ok
}

func remove[V any](root *node[V], first int64, id uint64) (_ *node[V], ok bool) {
	switch {
	case root == nil:
		return nil, false
	case root.first == first && root.id == id:
		return merge(root.left, root.right), true
	case root.before(first, id):
		root.right, ok = remove(root.right, first, id)
	default:
		root.left, ok = remove(root.left, first, id)
	}
	root.update()
	return root, ok
}

// merge joins two subtrees; all keys of left are smaller.
func merge[V any](left, right *node[V]) *node[V] {
	switch {
	case left == nil:
		return right
	case right == nil:
		return left
	case left.priority > right.priority:
		left.right = merge(left.right, right)
		left.update()
		return left
	default:
		right.left = merge(left, right.left)
		right.update()
		return right
	}
}

// overlapping yields the intervals that have a point in common with [first, end), in the order of their keys. The tree
// must not change meanwhile.
func (t *tree[V]) overlapping(first, end int64) func(yield func(*node[V]) bool) {
	return func(yield func(*node[V]) bool) { visit(t.root, first, end, yield) }
}

// any returns the first interval that overlapping would yield, or nil.
func (t *tree[V]) any(first, end int64) (found *node[V]) {
	visit(t.root, first, end, func(n *node[V]) bool {
		found = n
		return false
	})
	return found
}

func visit[V any](n *node[V], first, end int64, yield func(*node[V]) bool) bool {
	if n == nil || n.maxEnd <= first || first >= end {
		return true
	}
	if !visit(n.left, first, end, yield) {
		return false
	}
	if n.first >= end {
		return true // and so is everything to the right
	}
	if n.end > first && !yield(n) {
		return false
	}
	return visit(n.right, first, end, yield)
}
