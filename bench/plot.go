package main

import (
	"fmt"
	"image/color"
	"io"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/pmemfs/pmemfs/internal/report"
)

var (
	colors = []color.Color{
		report.Blue, report.Orange, report.Green, report.Vermillion, report.Purple, report.SkyBlue, report.Black, report.Grey,
	}
	shapes = []draw.GlyphDrawer{
		draw.CircleGlyph{}, draw.SquareGlyph{}, draw.PyramidGlyph{}, draw.BoxGlyph{}, draw.RingGlyph{}, draw.TriangleGlyph{},
		draw.PlusGlyph{}, draw.CrossGlyph{},
	}
)

const (
	plotWidth   = 9 * vg.Inch
	curveHeight = 3.4 * vg.Inch
	frameHeight = 1.1 * vg.Inch // of a plot of points, besides its lines
	pointSize   = 3.5
)

// drawing is a plot with a name.
type drawing struct {
	title  string
	plots  []*plot.Plot
	height vg.Length // of each
}

func (d *drawing) write(w io.Writer) error { return report.WriteSVG(w, d.plots, plotWidth, d.height) }

// drawings are those of a part: points, a drawing for each unit, and the curves in one.
func drawings(p *report.Part) ([]drawing, error) {
	var all []drawing
	var curves []*plot.Plot
	for _, rows := range groups(p.Rows) {
		if rows[0].XUnit != "" {
			q, err := curvePlot(rows)
			if err != nil {
				return nil, err
			}
			curves = append(curves, q)
			continue
		}
		for _, unit := range distinct(rows, func(r report.Row) string { return r.Unit }) {
			same := slices.DeleteFunc(slices.Clone(rows), func(r report.Row) bool { return r.Unit != unit || r.Median <= 0 })
			if len(same) == 0 {
				continue
			}
			q, lines, err := pointPlot(p.Title, same)
			if err != nil {
				return nil, err
			}
			all = append(all, drawing{p.Title + ": " + unitName(unit), []*plot.Plot{q}, frameHeight + lineHeight(lines)})
		}
	}
	if len(curves) > 0 {
		all = append(all, drawing{p.Title + ": curves", curves, curveHeight})
	}
	return all, nil
}

func distinct(rows []report.Row, name func(report.Row) string) (names []string) {
	for _, r := range rows {
		if n := name(r); !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

func lineHeight(lines int) vg.Length { return vg.Length(lines) * 0.3 * vg.Inch }

// pointPlot shows medians and quartiles, a line of the plot for each thing that is done (or for each peer if there are many
// more of them). They are points and no bars: the length of a bar means nothing on a logarithmic axis.
func pointPlot(title string, rows []report.Row) (*plot.Plot, int, error) {
	line := func(r report.Row) string { return r.What }
	kind := func(r report.Row) string { return r.Peer }
	if things := distinct(rows, line); len(distinct(rows, kind)) > 2*len(things) || len(things) == 1 {
		line, kind = kind, line
		if len(things) == 1 {
			title += ": " + things[0]
		}
	}
	lines, kinds := distinct(rows, line), distinct(rows, kind)
	q := report.NewPlot(title, unitName(rows[0].Unit), "")
	top := len(lines) - 1
	for i, k := range kinds {
		var points quartiles
		for _, r := range rows {
			if kind(r) == k {
				y := float64(top - slices.Index(lines, line(r)))
				points.add(r.Median, y, max(r.Q1, r.Median/1e3), r.Q3)
			}
		}
		scatter, err := plotter.NewScatter(points.XYs)
		if err != nil {
			return nil, 0, err
		}
		scatter.Color, scatter.Shape, scatter.Radius = colors[i%len(colors)], shapes[i%len(shapes)], vg.Points(pointSize)
		bars, err := plotter.NewXErrorBars(points)
		if err != nil {
			return nil, 0, err
		}
		bars.Color = scatter.Color
		q.Add(bars, scatter)
		if len(kinds) > 1 {
			q.Legend.Add(k, scatter)
		}
	}
	slices.Reverse(lines)
	q.NominalY(lines...)
	q.Y.Min, q.Y.Max = -0.5, float64(top)+0.5
	logAxis(&q.X, rows[0].Unit, rows)
	if len(kinds) > 1 {
		q.Legend.Top = true
		q.X.Max *= 100 // room for the legend
	}
	return q, max(len(lines), len(kinds)), nil
}

// quartiles are points with the lengths of bars to their left and right.
type quartiles struct {
	plotter.XYs
	plotter.XErrors
}

func (q *quartiles) add(median, y, q1, q3 float64) {
	q.XYs = append(q.XYs, plotter.XY{X: median, Y: y})
	q.XErrors = append(q.XErrors, struct{ Low, High float64 }{median - q1, q3 - median})
}

// curvePlot shows medians over sizes, a curve for each peer.
func curvePlot(rows []report.Row) (*plot.Plot, error) {
	q := report.NewPlot(rows[0].What, unitName(rows[0].XUnit), unitName(rows[0].Unit))
	for i, peer := range distinct(rows, func(r report.Row) string { return r.Peer }) {
		var points plotter.XYs
		for _, r := range rows {
			if r.Peer == peer && r.Median > 0 {
				points = append(points, plotter.XY{X: r.X, Y: r.Median})
			}
		}
		if len(points) == 0 {
			continue
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return nil, err
		}
		line.Color, dots.Color, dots.Shape = colors[i%len(colors)], colors[i%len(colors)], shapes[i%len(shapes)]
		q.Add(line, dots)
		q.Legend.Add(peer, line, dots)
	}
	q.Legend.Top, q.Legend.Left = true, true
	q.X.Scale, q.X.Tick.Marker = plot.LogScale{}, sizes(rows)
	q.X.Min, q.X.Max = q.X.Min/1.1, q.X.Max*1.1
	logAxis(&q.Y, rows[0].Unit, rows)
	return q, nil
}

// logAxis shows the decades that hold the figures of rows, with some room above for a legend.
func logAxis(a *plot.Axis, unit string, rows []report.Row) {
	bottom, top := math.Inf(1), 0.0
	for _, r := range rows {
		if r.Median > 0 {
			bottom, top = min(bottom, r.Median), max(top, r.Median, r.Q3)
		}
	}
	if top == 0 {
		return
	}
	a.Scale = plot.LogScale{}
	a.Min, a.Max = report.Decade(bottom, math.Floor), report.Decade(3*top, math.Ceil)
	if unit == "ns" {
		a.Tick.Marker = report.Durations(a.Min, a.Max)
		return
	}
	var ticks plot.ConstantTicks
	for v := a.Min; v <= a.Max*1.0001; v *= 10 {
		ticks = append(ticks, plot.Tick{Value: v, Label: report.Thousands(v)})
	}
	a.Tick.Marker = ticks
}

// sizes are what curves are measured against.
func sizes(rows []report.Row) plot.ConstantTicks {
	var ticks plot.ConstantTicks
	for _, r := range rows {
		if !slices.ContainsFunc(ticks, func(t plot.Tick) bool { return t.Value == r.X }) {
			label := report.Thousands(r.X)
			if r.XUnit == "B" {
				label = report.Bytes(r.X)
			}
			ticks = append(ticks, plot.Tick{Value: r.X, Label: label})
		}
	}
	return ticks
}

// unitName is what an axis is labelled with.
func unitName(unit string) string {
	switch unit {
	case "ns":
		return "time"
	case "1/s":
		return "per second"
	case "B":
		return "bytes"
	}
	return fmt.Sprint(unit)
}
