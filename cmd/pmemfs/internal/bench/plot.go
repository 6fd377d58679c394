package bench

import (
	"image/color"
	"io"
	"math"

	"github.com/HdrHistogram/hdrhistogram-go"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"github.com/pmemfs/pmemfs/internal/report"
)

// curve is a histogram as a plot of percentiles shows it.
type curve struct {
	name  string
	color color.Color
	hist  *hdrhistogram.Histogram
}

// panel is one plot of several that stand one below the other, with the same axes.
type panel struct {
	title  string
	curves []curve
}

const (
	panelWidth, panelHeight = 9 * vg.Inch, 3.2 * vg.Inch
	pointsPerDecade         = 24
)

// percentilePlot writes panels as SVG: percentiles on a scale of 1/(1-p), so that each nine takes as much room, and
// nanoseconds, both logarithmic.
func percentilePlot(w io.Writer, panels []panel) error {
	var right, top float64
	bottom := math.Inf(1)
	for _, p := range panels {
		for _, c := range p.curves {
			right = max(right, float64(c.hist.TotalCount()))
			top = max(top, float64(c.hist.Max()))
			bottom = min(bottom, max(float64(c.hist.ValueAtPercentile(0)), 1))
		}
	}
	plots := make([]*plot.Plot, len(panels))
	for i, p := range panels {
		q, err := p.plot()
		if err != nil {
			return err
		}
		q.X.Min, q.X.Max, q.X.Tick.Marker = 1, max(right, 10), nines(right)
		q.Y.Min, q.Y.Max = report.Decade(bottom, math.Floor), report.Decade(top, math.Ceil)
		q.Y.Tick.Marker = report.Durations(bottom, top)
		plots[i] = q
	}
	return report.WriteSVG(w, plots, panelWidth, panelHeight)
}

func (p *panel) plot() (*plot.Plot, error) {
	q := report.NewPlot(p.title, "percentile", "time of a store")
	q.X.Scale, q.Y.Scale = plot.LogScale{}, plot.LogScale{}
	q.Legend.Top, q.Legend.Left = true, true
	q.Legend.XOffs, q.Legend.YOffs, q.Legend.Padding = vg.Points(10), vg.Points(-26), vg.Points(1)
	for _, c := range p.curves {
		line, err := plotter.NewLine(c.points())
		if err != nil {
			return nil, err
		}
		line.Color, line.Width = c.color, vg.Points(1.6)
		q.Add(line)
		q.Legend.Add(c.name, line)
	}
	return q, nil
}

// points are the curve's, up to the largest value, which one in all stands for.
func (c *curve) points() (points plotter.XYs) {
	n := float64(c.hist.TotalCount())
	for i := range int(math.Log10(n)*pointsPerDecade) + 1 {
		x := math.Pow(10, float64(i)/pointsPerDecade)
		points = append(points, plotter.XY{X: x, Y: float64(c.hist.ValueAtPercentile(100 * (1 - 1/x)))})
	}
	return append(points, plotter.XY{X: n, Y: float64(c.hist.Max())})
}

// nines are the percentiles up to that of one in n.
func nines(n float64) plot.ConstantTicks {
	names := []string{"0", "90", "99", "99.9", "99.99", "99.999", "99.9999", "99.99999", "99.999999"}
	var ticks plot.ConstantTicks
	for i, x := 0, 1.0; i < len(names) && x <= n*1.0001; i, x = i+1, x*10 {
		ticks = append(ticks, plot.Tick{Value: x, Label: names[i]})
	}
	return ticks
}
