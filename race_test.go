//go:build race

package pmemfs_test

const raceDetector = true
