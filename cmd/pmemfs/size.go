package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

const units = "KMGTP"

// size is a flag of bytes: a number with an optional unit, powers of 1024.
type size int64

func (s *size) String() string {
	if *s == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*s), 10)
}

func (s *size) Set(text string) error {
	n, err := parseSize(text)
	if err == nil {
		*s = size(n)
	}
	return err
}

func (s *size) Type() string { return "SIZE" }

// parseSize reads "4096", "64K", "64M", "1G", "1T", "2P", also "64MiB".
func parseSize(text string) (int64, error) {
	number, shift := text, 0
	if digits := strings.TrimSuffix(text, "iB"); digits != text || !strings.HasSuffix(text, "B") {
		if i := len(digits) - 1; i >= 0 {
			if unit := strings.IndexByte(units, digits[i]); unit >= 0 {
				number, shift = digits[:i], 10*(unit+1)
			}
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n <= 0 || number[0] == '+' {
		return 0, fmt.Errorf("%q is not a size: a number of bytes, or one with K, M, G, T or P (powers of 1024)", text)
	}
	if n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%q is too large a size", text)
	}
	return n << shift, nil
}

// formatSize writes "0 B", "512 B", "1.5 KiB", "12 GiB".
func formatSize(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), -1
	for v >= 1023.95 && unit < len(units)-1 {
		v /= 1024
		unit++
	}
	if v < 9.95 {
		return fmt.Sprintf("%.1f %ciB", v, units[unit])
	}
	return fmt.Sprintf("%.0f %ciB", v, units[unit])
}
